"""Invitations are mailed by the outbox of e-mails; those that wait move there."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Leaves it to the outbox what has been sent."""

    dependencies: ClassVar = [("tenants", "0011_admin_scopes"), ("accounts", "0005_emails_about_things")]
    operations: ClassVar = [
        migrations.RunSQL(
            """
            INSERT INTO accounts_email (id, "to", subject, body, about, attempts)
            SELECT gen_random_uuid(), email, '', '', 'invite-' || replace(id::text, '-', ''), 0 FROM tenants_invite
            WHERE sent_at IS NULL AND accepted_at IS NULL AND expires_at > now()
            """,
            migrations.RunSQL.noop,
        ),
        migrations.RemoveIndex("invite", "invite_unsent"),
        migrations.RemoveField("invite", "sent_at"),
    ]
