"""Django application of tenancy."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Everything a customer owns hangs on an organisation of this app."""

    name = "tenants"

    def ready(self) -> None:
        """Say who writes to those who are invited."""
        from accounts.emails import register_writer  # noqa: PLC0415
        from tenants.invites import write_invite  # noqa: PLC0415  # needs models
        from tenants.models import Invite  # noqa: PLC0415

        register_writer(prefix=Invite.ID_PREFIX, write=write_invite)
