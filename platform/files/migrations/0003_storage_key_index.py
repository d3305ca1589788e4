"""The sweep of orphaned blobs asks by storage key."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Finds the file of a blob."""

    atomic = False
    dependencies = [
        ("files", "0002_row_level_security"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="storedfile",
            index=models.Index(
                condition=models.Q(("storage_key", ""), _negated=True),
                fields=["storage_key"],
                name="file_by_storage_key",
            ),
        ),
    ]
