"""Keys may be bound to networks, and be rotated."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import migrations, models


class Migration(migrations.Migration):
    """Adds columns that are null for every key so far."""

    dependencies: ClassVar = [("tenants", "0008_tell_of_changed_keys")]
    operations: ClassVar = [
        migrations.AddField(
            model_name="apikey",
            name="allowed_ips",
            field=ArrayField(base_field=models.CharField(max_length=43), null=True, size=None),
        ),
        migrations.AddField(model_name="apikey", name="rotated_at", field=models.DateTimeField(null=True)),
    ]
