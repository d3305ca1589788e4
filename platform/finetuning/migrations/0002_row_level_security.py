"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [
        ("finetuning", "0001_initial"),
        ("files", "0002_row_level_security"),
        ("fleet", "0002_row_level_security"),
        ("tenants", "0002_row_level_security"),
    ]
    operations: ClassVar = [
        *protect(
            "finetuning_finetuningjob",
            references={
                "project_id": "tenants_project",
                "api_key_id": "tenants_apikey",
                "training_file_id": "files_storedfile",
                "validation_file_id": "files_storedfile",
                "result_file_id": "files_storedfile",
                "lease_id": "fleet_lease",
            },
        ),
        *protect(
            "finetuning_trainingrun", references={"job_id": "finetuning_finetuningjob", "lease_id": "fleet_lease"}
        ),
        *protect("finetuning_artifact", references={"job_id": "finetuning_finetuningjob"}),
        *protect("finetuning_jobevent", references={"job_id": "finetuning_finetuningjob"}, has_id=False),
        *protect("finetuning_metricpoint", references={"job_id": "finetuning_finetuningjob"}, has_id=False),
        *protect(
            "finetuning_checkpoint",
            references={"job_id": "finetuning_finetuningjob", "lease_id": "fleet_lease"},
            has_id=False,
        ),
    ]
