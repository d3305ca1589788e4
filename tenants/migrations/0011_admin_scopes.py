"""The two scopes of administration have become one pair for each part of it."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Gives existing admin keys what they had, under the new names."""

    dependencies: ClassVar = [("tenants", "0010_administration")]
    operations: ClassVar = [
        migrations.RunSQL(
            """
            UPDATE tenants_apikey SET scopes = (
                SELECT array_agg(DISTINCT scope ORDER BY scope) FROM unnest(
                    scopes::text[]
                    || CASE WHEN 'organization.read' = ANY (scopes)
                        THEN ARRAY['audit.read', 'keys.read', 'members.read', 'projects.read', 'usage.read'] END
                    || CASE WHEN 'organization.write' = ANY (scopes)
                        THEN ARRAY['keys.write', 'members.write', 'projects.write'] END
                ) AS scope WHERE scope NOT IN ('organization.read', 'organization.write')
            )
            WHERE kind = 'admin' AND scopes::text[] && ARRAY['organization.read', 'organization.write']
            """,
            migrations.RunSQL.noop,
        )
    ]
