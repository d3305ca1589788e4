"""Reports on the rows of files, behind the second wall."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import common.ids
from tenants.rls import protect


class Migration(migrations.Migration):
    """Makes the table of reports."""

    dependencies = [
        ("files", "0005_content_index"),
        ("tenants", "0006_deleted_organizations"),
    ]

    operations = [
        migrations.CreateModel(
            name="FileReport",
            fields=[
                ("id", models.UUIDField(default=common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("options", models.JSONField(default=dict)),
                ("options_digest", models.CharField(max_length=64)),
                ("lease_id", models.UUIDField(null=True, unique=True)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("queued", "Queued"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                        ],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("bytes_read", models.BigIntegerField(default=0)),
                ("summary", models.JSONField(null=True)),
                ("rejects_key", models.CharField(blank=True, max_length=255)),
                ("rejects_bytes", models.BigIntegerField(default=0)),
                ("failure", models.JSONField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "file",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="files.storedfile",
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
                (
                    "requested_by",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.apikey",
                    ),
                ),
            ],
        ),
        migrations.AddIndex(
            model_name="filereport",
            index=models.Index(
                condition=models.Q(("rejects_key", ""), _negated=True),
                fields=["rejects_key"],
                name="file_report_by_rejects_key",
            ),
        ),
        migrations.AddConstraint(
            model_name="filereport",
            constraint=models.UniqueConstraint(fields=("file", "options_digest"), name="file_report_once"),
        ),
        *protect("files_filereport", references={"file_id": "files_storedfile", "requested_by_id": "tenants_apikey"}),
    ]
