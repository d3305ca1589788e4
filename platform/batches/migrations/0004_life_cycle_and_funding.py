"""Pause, retry, caps on cost, and the order of execution."""

from typing import ClassVar

import django.db.models.deletion
from django.db import migrations, models

from tenants.rls import bind


class Migration(migrations.Migration):
    """What shards hold, what rows may cost, why a batch waits; and which batch it runs again."""

    dependencies: ClassVar = [
        ("batches", "0003_storage_key_index"),
        ("catalog", "0002_only_the_system_writes"),
        ("files", "0002_row_level_security"),
        ("fleet", "0003_paused_leases"),
        ("tenants", "0003_people_behind_the_wall"),
    ]

    operations: ClassVar = [
        migrations.RemoveIndex(
            model_name="row",
            name="row_pending",
        ),
        migrations.AddField(
            model_name="batch",
            name="bound_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="batch",
            name="holds",
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="batch",
            name="max_cost_nanos",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="batch",
            name="pause_reason",
            field=models.CharField(
                blank=True,
                choices=[
                    ("requested", "Requested"),
                    ("max_cost", "Max Cost"),
                    ("insufficient_quota", "Insufficient Quota"),
                ],
                max_length=32,
            ),
        ),
        migrations.AddField(
            model_name="batch",
            name="retry_of",
            field=models.ForeignKey(
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="batches.batch",
            ),
        ),
        migrations.AddField(
            model_name="row",
            name="bound_nanos",
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name="row",
            name="position",
            field=models.PositiveIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name="segment",
            name="epoch",
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="shard",
            name="bound_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="shard",
            name="cost_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="shard",
            name="is_funded",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="shard",
            name="pending",
            field=models.PositiveIntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="row",
            name="result_offset",
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddIndex(
            model_name="row",
            index=models.Index(
                condition=models.Q(("state", "pending")), fields=["shard", "position"], name="row_pending"
            ),
        ),
        migrations.AddIndex(
            model_name="shard",
            index=models.Index(
                condition=models.Q(("is_funded", False), ("pending__gt", 0)),
                fields=["batch", "id"],
                name="shard_unfunded",
            ),
        ),
        migrations.AddConstraint(
            model_name="batch",
            constraint=models.UniqueConstraint(
                condition=models.Q(("status", "failed"), _negated=True), fields=("retry_of",), name="batch_retried_once"
            ),
        ),
        *bind("batches_batch", {"retry_of_id": "batches_batch"}),
        # What is open already was never held for: it runs to its end and is not charged.
        migrations.RunSQL(
            """
            UPDATE batches_shard SET is_funded = true, pending = (
                SELECT count(*) FROM batches_row WHERE shard_id = batches_shard.id AND state = 'pending'
            );
            UPDATE batches_row SET position = line;
            """,
            migrations.RunSQL.noop,
        ),
    ]
