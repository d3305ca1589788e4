"""A row's shard and segment are of its own batch.

A key on the batch as well, so that PostgreSQL finds the rows of a shard or segment that is deleted through the rows'
primary key (batch, line): an index of their own would cost with every row that finishes.
"""

from typing import ClassVar

from django.db import migrations


def _within_the_batch(field: str, table: str) -> list[migrations.RunSQL]:
    key = f"batches_row_{field}_tenant_fk"
    return [
        migrations.RunSQL(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_batch_key UNIQUE (organization_id, batch_id, id)",
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_batch_key",
        ),
        migrations.RunSQL(
            f"""
            ALTER TABLE batches_row DROP CONSTRAINT {key};
            ALTER TABLE batches_row ADD CONSTRAINT {key} FOREIGN KEY (organization_id, batch_id, {field})
                REFERENCES {table} (organization_id, batch_id, id) DEFERRABLE INITIALLY DEFERRED
            """,
            f"""
            ALTER TABLE batches_row DROP CONSTRAINT {key};
            ALTER TABLE batches_row ADD CONSTRAINT {key} FOREIGN KEY (organization_id, {field})
                REFERENCES {table} (organization_id, id) DEFERRABLE INITIALLY DEFERRED
            """,
        ),
    ]


class Migration(migrations.Migration):
    """Replaces the keys on (organisation, id)."""

    dependencies: ClassVar = [("batches", "0004_life_cycle_and_funding")]
    operations: ClassVar = [
        *_within_the_batch("shard_id", "batches_shard"),
        *_within_the_batch("segment_id", "batches_segment"),
    ]
