"""The second wall: row-level security and keys that include the organisation."""

from typing import ClassVar

from django.db import migrations

from tenants.rls import protect


class Migration(migrations.Migration):
    """Puts the tables of this app behind the wall."""

    dependencies: ClassVar = [("notifications", "0001_initial"), ("tenants", "0002_row_level_security")]
    operations: ClassVar = [
        *protect("notifications_webhookendpoint", references={"project_id": "tenants_project"}),
        *protect("notifications_event", references={"project_id": "tenants_project"}),
        *protect(
            "notifications_delivery",
            references={"event_id": "notifications_event", "endpoint_id": "notifications_webhookendpoint"},
        ),
        *protect("notifications_deliveryattempt", references={"delivery_id": "notifications_delivery"}),
    ]
