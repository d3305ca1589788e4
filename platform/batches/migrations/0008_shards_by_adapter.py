"""What still needs a fine-tuned model is found by an index."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("batches", "0007_tuned_models")]

    operations = [
        AddIndexConcurrently(
            model_name="shard",
            index=models.Index(
                fields=["adapter"],
                condition=models.Q(adapter__isnull=False, pending__gt=0),
                name="shard_needs_adapter",
            ),
        ),
    ]
