"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import append_only, protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [("metering", "0001_initial"), ("tenants", "0002_row_level_security")]
    operations: ClassVar = [
        *protect("metering_usageevent", references={"project_id": "tenants_project", "api_key_id": "tenants_apikey"}),
        append_only("metering_usageevent"),
    ]
