"""The one permission table: which scope an operation needs, and which scopes a role grants.

A key has the scopes it was made with and calls operations of its kind. A signed-in member has those of the role and
calls both kinds. Every route names its operation per method; a route without a row here cannot be called, and a test
fails.
"""

from dataclasses import dataclass

from tenants.models import ApiKey, Role

PROJECT = ApiKey.Kind.PROJECT
ADMIN = ApiKey.Kind.ADMIN


@dataclass(frozen=True)
class Permission:
    """Who may call an operation: a key of this kind that holds this scope, or a member whose role holds it."""

    key_kind: ApiKey.Kind
    scope: str


OPERATIONS: dict[str, Permission] = {
    "files.create": Permission(PROJECT, "files.write"),
    "files.list": Permission(PROJECT, "files.read"),
    "files.retrieve": Permission(PROJECT, "files.read"),
    "files.content": Permission(PROJECT, "files.read"),
    "files.delete": Permission(PROJECT, "files.write"),
    "uploads.create": Permission(PROJECT, "files.write"),
    "uploads.add_part": Permission(PROJECT, "files.write"),
    "uploads.complete": Permission(PROJECT, "files.write"),
    "uploads.cancel": Permission(PROJECT, "files.write"),
    "models.list": Permission(PROJECT, "models.read"),
    "models.retrieve": Permission(PROJECT, "models.read"),
    "batches.create": Permission(PROJECT, "batches.write"),
    "batches.list": Permission(PROJECT, "batches.read"),
    "batches.retrieve": Permission(PROJECT, "batches.read"),
    "batches.cancel": Permission(PROJECT, "batches.write"),
    "batches.pause": Permission(PROJECT, "batches.write"),
    "batches.resume": Permission(PROJECT, "batches.write"),
    "batches.retry": Permission(PROJECT, "batches.write"),
    "batches.quote": Permission(PROJECT, "batches.write"),
    "batches.results": Permission(PROJECT, "batches.read"),
    "webhooks.list_event_types": Permission(PROJECT, "webhooks.read"),
    "webhooks.create": Permission(PROJECT, "webhooks.write"),
    "webhooks.list": Permission(PROJECT, "webhooks.read"),
    "webhooks.retrieve": Permission(PROJECT, "webhooks.read"),
    "webhooks.update": Permission(PROJECT, "webhooks.write"),
    "webhooks.delete": Permission(PROJECT, "webhooks.write"),
    "webhooks.rotate_secret": Permission(PROJECT, "webhooks.write"),
    "webhooks.test": Permission(PROJECT, "webhooks.write"),
    "webhooks.list_deliveries": Permission(PROJECT, "webhooks.read"),
    "webhooks.replay": Permission(PROJECT, "webhooks.write"),
    "balance.retrieve": Permission(ADMIN, "billing.read"),
    "ledger.list": Permission(ADMIN, "billing.read"),
}

PERSON_OPERATIONS = frozenset({"organizations.create", "organizations.list"})
"""What everybody who is signed in may do, a member of something or not."""

PROJECT_SCOPES = frozenset(entry.scope for entry in OPERATIONS.values() if entry.key_kind == PROJECT)
ADMIN_SCOPES = frozenset({"organization.read", "organization.write", "billing.read"})
ALL_SCOPES = PROJECT_SCOPES | ADMIN_SCOPES
_READ_SCOPES = frozenset(scope for scope in ALL_SCOPES if scope.endswith(".read"))

ROLE_SCOPES: dict[Role, frozenset[str]] = {
    Role.OWNER: ALL_SCOPES,
    Role.ADMIN: ALL_SCOPES,
    Role.DEVELOPER: PROJECT_SCOPES,
    Role.BILLING: frozenset({"organization.read", "billing.read"}),
    Role.VIEWER: _READ_SCOPES,
}
