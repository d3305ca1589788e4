"""Three database roles, three aliases.

``default`` (hone_app) works inside one tenant's scope, ``system`` (hone_system) is the named role of work
that crosses tenants, ``owner`` (hone_owner) owns the tables and only runs migrations.
"""

from typing import Any

SYSTEM = "system"
OWNER = "owner"


class RoleRouter:
    """All aliases are one database, so relations between their objects are fine; the owner alone migrates."""

    def allow_relation(self, *_: Any, **__: Any) -> bool:
        """Objects read by one role may refer to objects read by another."""
        return True

    def allow_migrate(self, db: str, *_: Any, **__: Any) -> bool:
        """Migrations run as the owner of the tables."""
        return db == OWNER
