"""Three database roles, three aliases.

``default`` (hone_app) works inside one tenant's scope, ``system`` (hone_system) is the named role of work
that crosses tenants, ``owner`` (hone_owner) owns the tables and only runs migrations.
"""

from typing import Any

from django.db.models import Model

SYSTEM = "system"
OWNER = "owner"

PEOPLES_APPS = frozenset({"accounts", "account", "mfa", "usersessions", "sessions"})
"""Labels of apps whose rows are of people: these belong to no tenant, so the system role alone works with them."""


class RoleRouter:
    """All aliases are one database, so relations between their objects are fine; the owner alone migrates."""

    def db_for_read(self, model: type[Model], **_: Any) -> str | None:
        """People are read by the system role; joins in a tenant's scope still meet the policy of ``accounts_user``."""
        return SYSTEM if model._meta.app_label in PEOPLES_APPS else None

    def db_for_write(self, model: type[Model], **_: Any) -> str | None:
        """As for reading."""
        return self.db_for_read(model)

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        """Objects read by one role may refer to objects read by another."""
        return True

    def allow_migrate(self, db: str, *_: Any, **__: Any) -> bool:
        """Migrations run as the owner of the tables."""
        return db == OWNER
