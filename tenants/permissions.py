"""The one permission table: which scope an operation needs, and which scopes a role grants.

A key has the scopes it was made with and calls operations of its kind. A signed-in member has those of the role and
calls both kinds. Every route names its operation per method; a route without a row here cannot be called, and a test
fails.

Projects. A project key is of its project, an admin key sees all of the organisation's. A signed-in member sees those
that he or she belongs to (:class:`tenants.models.ProjectMembership`), and works there whatever the role in the
organisation is: the scopes of the role in the project are added. Owners and admins see all the others, too, and work in
them; so does billing see them, since usage and costs are told by project, but does no work there. To everybody else a
project of others is one that does not exist, named by a header or in the path, and stands in no list. Whoever can found
projects sees all of them, and is never shut out of one.

What is told of the organisation as a whole (members, usage, costs, ledger, audit log) is a matter of scopes alone.
"""

from dataclasses import dataclass

from tenants.models import ApiKey, ProjectRole, Role

PROJECT = ApiKey.Kind.PROJECT
ADMIN = ApiKey.Kind.ADMIN


@dataclass(frozen=True)
class Permission:
    """Who may call an operation: a key of this kind that holds this scope, or a member whose role holds it.

    None is any kind, or no scope at all.
    """

    key_kind: ApiKey.Kind | None
    scope: str | None


OPERATIONS: dict[str, Permission] = {
    "files.create": Permission(PROJECT, "files.write"),
    "files.list": Permission(PROJECT, "files.read"),
    "files.retrieve": Permission(PROJECT, "files.read"),
    "files.content": Permission(PROJECT, "files.read"),
    "files.delete": Permission(PROJECT, "files.write"),
    "files.report": Permission(PROJECT, "files.read"),
    "files.report_rejects": Permission(PROJECT, "files.read"),
    "uploads.create": Permission(PROJECT, "files.write"),
    "uploads.add_part": Permission(PROJECT, "files.write"),
    "uploads.complete": Permission(PROJECT, "files.write"),
    "uploads.cancel": Permission(PROJECT, "files.write"),
    "models.list": Permission(PROJECT, "models.read"),
    "models.retrieve": Permission(PROJECT, "models.read"),
    "models.delete": Permission(PROJECT, "models.write"),
    "models.manifest": Permission(PROJECT, "models.read"),
    # Calling a model and taking its weights home are different rights.
    "models.download": Permission(PROJECT, "weights.read"),
    "signing_key.retrieve": Permission(PROJECT, "models.read"),
    "model_aliases.list": Permission(PROJECT, "models.read"),
    "model_aliases.create": Permission(PROJECT, "models.write"),
    "model_aliases.retrieve": Permission(PROJECT, "models.read"),
    "model_aliases.promote": Permission(PROJECT, "models.write"),
    "model_aliases.rollback": Permission(PROJECT, "models.write"),
    "model_aliases.delete": Permission(PROJECT, "models.write"),
    "model_aliases.history": Permission(PROJECT, "models.read"),
    "batches.create": Permission(PROJECT, "batches.write"),
    "batches.list": Permission(PROJECT, "batches.read"),
    "batches.retrieve": Permission(PROJECT, "batches.read"),
    "batches.cancel": Permission(PROJECT, "batches.write"),
    "batches.pause": Permission(PROJECT, "batches.write"),
    "batches.resume": Permission(PROJECT, "batches.write"),
    "batches.retry": Permission(PROJECT, "batches.write"),
    "batches.quote": Permission(PROJECT, "batches.write"),
    "batches.results": Permission(PROJECT, "batches.read"),
    "fine_tuning.create": Permission(PROJECT, "fine_tuning.write"),
    "fine_tuning.list": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.retrieve": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.cancel": Permission(PROJECT, "fine_tuning.write"),
    "fine_tuning.pause": Permission(PROJECT, "fine_tuning.write"),
    "fine_tuning.resume": Permission(PROJECT, "fine_tuning.write"),
    "fine_tuning.list_events": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.list_checkpoints": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.logs": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.evaluation": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.evaluation_examples": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.download": Permission(PROJECT, "weights.read"),
    "fine_tuning.quote": Permission(PROJECT, "fine_tuning.write"),
    "fine_tuning.list_recipes": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.retrieve_recipe": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.recipe_sample": Permission(PROJECT, "fine_tuning.read"),
    "fine_tuning.preview": Permission(PROJECT, "fine_tuning.write"),
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
    "whoami.retrieve": Permission(None, None),
    "admin_keys.list": Permission(ADMIN, "keys.read"),
    "admin_keys.create": Permission(ADMIN, "keys.write"),
    "admin_keys.retrieve": Permission(ADMIN, "keys.read"),
    "admin_keys.delete": Permission(ADMIN, "keys.write"),
    "project_keys.list": Permission(ADMIN, "keys.read"),
    "project_keys.create": Permission(ADMIN, "keys.write"),
    "project_keys.retrieve": Permission(ADMIN, "keys.read"),
    "project_keys.update": Permission(ADMIN, "keys.write"),
    "project_keys.delete": Permission(ADMIN, "keys.write"),
    "service_accounts.list": Permission(ADMIN, "keys.read"),
    "service_accounts.create": Permission(ADMIN, "keys.write"),
    "service_accounts.retrieve": Permission(ADMIN, "keys.read"),
    "service_accounts.update": Permission(ADMIN, "keys.write"),
    "service_accounts.delete": Permission(ADMIN, "keys.write"),
    "service_accounts.create_key": Permission(ADMIN, "keys.write"),
    "projects.list": Permission(ADMIN, "projects.read"),
    "projects.create": Permission(ADMIN, "projects.write"),
    "projects.retrieve": Permission(ADMIN, "projects.read"),
    "projects.update": Permission(ADMIN, "projects.write"),
    "projects.archive": Permission(ADMIN, "projects.write"),
    "rate_limits.list": Permission(ADMIN, "projects.read"),
    "rate_limits.update": Permission(ADMIN, "projects.write"),
    "model_permissions.retrieve": Permission(ADMIN, "projects.read"),
    "model_permissions.update": Permission(ADMIN, "projects.write"),
    "model_permissions.delete": Permission(ADMIN, "projects.write"),
    "checkpoint_permissions.list": Permission(ADMIN, "projects.read"),
    "checkpoint_permissions.create": Permission(ADMIN, "projects.write"),
    "checkpoint_permissions.delete": Permission(ADMIN, "projects.write"),
    "project_users.list": Permission(ADMIN, "members.read"),
    "project_users.create": Permission(ADMIN, "members.write"),
    "project_users.retrieve": Permission(ADMIN, "members.read"),
    "project_users.update": Permission(ADMIN, "members.write"),
    "project_users.delete": Permission(ADMIN, "members.write"),
    "users.list": Permission(ADMIN, "members.read"),
    "users.retrieve": Permission(ADMIN, "members.read"),
    "users.update": Permission(ADMIN, "members.write"),
    "users.delete": Permission(ADMIN, "members.write"),
    "invites.list": Permission(ADMIN, "members.read"),
    "invites.create": Permission(ADMIN, "members.write"),
    "invites.retrieve": Permission(ADMIN, "members.read"),
    "invites.delete": Permission(ADMIN, "members.write"),
    "roles.list": Permission(ADMIN, "members.read"),
    "audit_logs.list": Permission(ADMIN, "audit.read"),
    "usage.completions": Permission(ADMIN, "usage.read"),
    "usage.embeddings": Permission(ADMIN, "usage.read"),
    "costs.list": Permission(ADMIN, "billing.read"),
}

PERSON_OPERATIONS = frozenset({"organizations.create", "organizations.list", "invites.accept"})
"""What everybody who is signed in may do, a member of something or not."""


def _scopes_of(kind: ApiKey.Kind) -> frozenset[str]:
    return frozenset(entry.scope for entry in OPERATIONS.values() if entry.key_kind == kind and entry.scope)


PROJECT_SCOPES = _scopes_of(PROJECT)
ADMIN_SCOPES = _scopes_of(ADMIN)
ALL_SCOPES = PROJECT_SCOPES | ADMIN_SCOPES
_READ_SCOPES = frozenset(scope for scope in ALL_SCOPES if scope.endswith(".read"))

ROLE_SCOPES: dict[Role, frozenset[str]] = {
    Role.OWNER: ALL_SCOPES,
    Role.ADMIN: ALL_SCOPES,
    # To find the projects to work in.
    Role.DEVELOPER: PROJECT_SCOPES | {"projects.read"},
    Role.BILLING: frozenset({"billing.read", "usage.read", "projects.read"}),
    Role.VIEWER: _READ_SCOPES,
}

PROJECT_ROLE_SCOPES: dict[ProjectRole, frozenset[str]] = {
    ProjectRole.OWNER: PROJECT_SCOPES,
    ProjectRole.MEMBER: PROJECT_SCOPES,
}
"""What a role in a project adds there to the scopes of the role in the organisation."""

SEEING_ALL_PROJECTS = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING})
"""Roles that need not belong to a project to see it."""
