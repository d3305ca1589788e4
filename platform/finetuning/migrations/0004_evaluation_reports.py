"""What comes of an evaluation, behind the wall."""

from typing import ClassVar

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import common.ids
from tenants.rls import protect


class Migration(migrations.Migration):
    """One report for each job at most."""

    dependencies: ClassVar = [
        ("finetuning", "0003_canaries"),
        ("tenants", "0014_fine_tuning_scopes"),
    ]
    operations: ClassVar = [
        migrations.CreateModel(
            name="EvaluationReport",
            fields=[
                ("id", models.UUIDField(default=common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("succeeded", "Succeeded"),
                            ("failed", "Failed"),
                        ],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("error", models.JSONField(null=True)),
                ("rows", models.PositiveIntegerField()),
                ("summary", models.JSONField(null=True)),
                ("samples", models.JSONField(null=True)),
                ("gate", models.JSONField(null=True)),
                ("examples_key", models.CharField(blank=True, max_length=255)),
                ("examples_bytes", models.BigIntegerField(default=0)),
                ("input_tokens", models.BigIntegerField(default=0)),
                ("output_tokens", models.BigIntegerField(default=0)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "job",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="evaluation",
                        to="finetuning.finetuningjob",
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("examples_key", ""), _negated=True),
                        fields=["examples_key"],
                        name="evaluation_by_examples",
                    )
                ],
            },
        ),
        *protect("finetuning_evaluationreport", references={"job_id": "finetuning_finetuningjob"}),
    ]
