"""Credit has moved to the ledger of ``billing``."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Drops the column that an organisation's opening credit stood in."""

    dependencies: ClassVar = [("tenants", "0004_idempotency"), ("billing", "0003_open_ledgers")]
    operations: ClassVar = [
        migrations.RemoveConstraint(model_name="organization", name="organization_credit_positive"),
        migrations.RemoveField(model_name="organization", name="opening_credit_nanos"),
    ]
