"""What organisations were granted at their creation becomes the first posting of their ledgers."""

from typing import Any, ClassVar

from django.db import migrations

from common.ids import uuid7


def open_ledgers(apps: Any, schema_editor: Any) -> None:
    """Post every opening credit."""
    database = schema_editor.connection.alias
    organizations = apps.get_model("tenants", "Organization").objects.using(database)
    postings = apps.get_model("billing", "Posting").objects.using(database)
    credited = organizations.filter(opening_credit_nanos__gt=0).order_by("id")
    for organization_id, amount_nanos in credited.values_list("id", "opening_credit_nanos").iterator():
        postings.create(
            id=uuid7(),
            organization_id=organization_id,
            kind="credit",
            debit="granted",
            credit="available",
            amount_nanos=amount_nanos,
            key="opening",
            reason="Opening credit",
            actor="system",
        )


class Migration(migrations.Migration):
    """The column itself goes in ``tenants`` 0005."""

    dependencies: ClassVar = [("billing", "0002_row_level_security"), ("tenants", "0003_people_behind_the_wall")]
    operations: ClassVar = [migrations.RunPython(open_ledgers, migrations.RunPython.noop)]
