"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import append_only, protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [("tenants", "0001_initial")]
    operations: ClassVar = [
        *protect("tenants_organization", column="id"),
        *protect("tenants_project"),
        *protect("tenants_membership"),
        *protect("tenants_apikey", references={"project_id": "tenants_project"}),
        *protect("tenants_auditevent"),
        append_only("tenants_auditevent"),
    ]
