"""The sweep of orphaned blobs asks by storage key."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Finds the segment of a blob."""

    atomic = False
    dependencies = [
        ("batches", "0002_row_level_security"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="segment",
            index=models.Index(
                condition=models.Q(("storage_key", ""), _negated=True),
                fields=["storage_key"],
                name="segment_by_storage_key",
            ),
        ),
    ]
