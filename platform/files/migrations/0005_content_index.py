"""Whether a project has certain bytes already is asked at every upload."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Finds the files with the same bytes."""

    atomic = False
    dependencies = [
        ("files", "0004_uploads"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="storedfile",
            index=models.Index(
                condition=models.Q(("deleted_at", None)),
                fields=["project", "sha256", "purpose"],
                name="file_by_content",
            ),
        ),
    ]
