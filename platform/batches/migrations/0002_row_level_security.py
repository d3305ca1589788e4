"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [
        ("batches", "0001_initial"),
        ("files", "0002_row_level_security"),
        ("fleet", "0002_row_level_security"),
    ]
    operations: ClassVar = [
        *protect(
            "batches_batch",
            references={
                "project_id": "tenants_project",
                "api_key_id": "tenants_apikey",
                "input_file_id": "files_storedfile",
                "output_file_id": "files_storedfile",
                "error_file_id": "files_storedfile",
                "control_lease_id": "fleet_lease",
            },
        ),
        *protect("batches_shard", references={"batch_id": "batches_batch", "lease_id": "fleet_lease"}),
        *protect("batches_segment", references={"batch_id": "batches_batch", "shard_id": "batches_shard"}),
        *protect(
            "batches_row",
            references={"batch_id": "batches_batch", "shard_id": "batches_shard", "segment_id": "batches_segment"},
            has_id=False,
        ),
    ]
