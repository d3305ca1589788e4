"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [("files", "0001_initial"), ("tenants", "0002_row_level_security")]
    operations: ClassVar = [
        *protect("files_storedfile", references={"project_id": "tenants_project", "created_by_id": "tenants_apikey"}),
        *protect("files_fileuse", references={"file_id": "files_storedfile"}),
    ]
