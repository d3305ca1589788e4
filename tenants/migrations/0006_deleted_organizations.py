"""An organisation may be deleted; its row stays."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """Another status; the column stays as it is."""

    dependencies: ClassVar = [("tenants", "0005_credit_is_in_the_ledger")]
    operations: ClassVar = [
        migrations.AlterField(
            model_name="organization",
            name="status",
            field=models.CharField(
                choices=[("active", "Active"), ("suspended", "Suspended"), ("deleted", "Deleted")],
                default="active",
                max_length=16,
            ),
        ),
    ]
