"""What people sign in with is out of the reach of all work that is done for a tenant."""

from typing import ClassVar

from django.db import migrations

_TABLES = (
    "accounts_email, account_emailaddress, account_emailconfirmation, mfa_authenticator, usersessions_usersession, "
    "django_session"
)


class Migration(migrations.Migration):
    """Leaves addresses, second factors, sessions and messages to the system role."""

    dependencies: ClassVar = [
        ("accounts", "0002_outbox_of_emails"),
        ("account", "0009_emailaddress_unique_primary_email"),
        ("mfa", "0003_authenticator_type_uniq"),
        ("sessions", "0001_initial"),
        ("usersessions", "0001_initial"),
    ]
    operations: ClassVar = [
        migrations.RunSQL(
            f"REVOKE ALL ON {_TABLES} FROM hone_app",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_TABLES} TO hone_app",
        ),
    ]
