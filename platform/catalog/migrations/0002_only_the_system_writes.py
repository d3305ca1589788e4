"""Work for tenants reads the catalogue and never changes it; nobody changes a price."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import append_only, read_only_for_tenants


class Migration(migrations.Migration):
    """Takes rights that no code needs."""

    dependencies: ClassVar = [("catalog", "0001_initial")]
    operations: ClassVar = [
        read_only_for_tenants("catalog_basemodel"),
        append_only("catalog_price"),
        read_only_for_tenants("catalog_price"),
    ]
