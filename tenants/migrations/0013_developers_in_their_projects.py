"""Developers worked in every project of their organisation; now that is those that they belong to."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Lets those who are developers today go on working where they could."""

    dependencies: ClassVar = [("tenants", "0012_invites_in_the_outbox")]
    operations: ClassVar = [
        migrations.RunSQL(
            """
            INSERT INTO tenants_projectmembership (id, organization_id, project_id, membership_id, role)
            SELECT gen_random_uuid(), member.organization_id, project.id, member.id, 'member'
            FROM tenants_membership member
            JOIN tenants_project project ON project.organization_id = member.organization_id
            WHERE member.role = 'developer' AND project.status = 'active'
            ON CONFLICT (project_id, membership_id) DO NOTHING
            """,
            migrations.RunSQL.noop,
        )
    ]
