"""Fine-tuning has scopes of its own, and so have the models that it makes, and their weights."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Gives them to the keys that may do everything in their project; a narrower key stays as narrow as it is."""

    dependencies: ClassVar = [("tenants", "0011_admin_scopes")]
    operations: ClassVar = [
        migrations.RunSQL(
            """
            UPDATE tenants_apikey SET scopes = (
                SELECT array_agg(DISTINCT scope ORDER BY scope)
                FROM unnest(scopes::text[] || ARRAY[
                    'fine_tuning.read', 'fine_tuning.write', 'models.write', 'weights.read'
                ]) AS scope
            )
            WHERE kind = 'project' AND scopes::text[] @> ARRAY[
                'batches.read', 'batches.write', 'files.read', 'files.write', 'models.read', 'webhooks.read',
                'webhooks.write'
            ]
            """,
            migrations.RunSQL.noop,
        )
    ]
