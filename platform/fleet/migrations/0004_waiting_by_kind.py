"""The claim looks for work of the kinds that were asked for, however much of others waits."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """Replaces the index that the claim walks; the old one goes last."""

    atomic = False
    dependencies = [
        ("fleet", "0003_paused_leases"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="lease",
            index=models.Index(
                condition=models.Q(("state", "waiting")),
                fields=["model", "kind", "organization", "deadline_at", "id"],
                name="lease_waiting_by_kind",
            ),
        ),
        RemoveIndexConcurrently(model_name="lease", name="lease_waiting"),
    ]
