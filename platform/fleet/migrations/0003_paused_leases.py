"""A lease can pause."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """One more state, and since when the holder is asked to let go."""

    dependencies: ClassVar = [("fleet", "0002_row_level_security")]
    operations: ClassVar = [
        migrations.AddField("lease", "pause_requested_at", models.DateTimeField(null=True)),
        migrations.AlterField(
            "lease",
            "state",
            models.CharField(
                choices=[
                    ("waiting", "Waiting"),
                    ("paused", "Paused"),
                    ("leased", "Leased"),
                    ("done", "Done"),
                    ("failed", "Failed"),
                    ("cancelled", "Cancelled"),
                ],
                default="waiting",
                max_length=16,
            ),
        ),
    ]
