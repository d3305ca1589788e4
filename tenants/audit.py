"""The audit trail as OpenAI's audit log shows it: our actions under the names of its event types."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from accounts.models import User
from common.ids import from_wire, to_wire
from common.query import MAX_SECONDS
from tenants.models import ApiKey, AuditEvent, Membership, Project, ServiceAccount
from tenants.selectors import owners

EVENT_TYPES = {
    "api_key.created": "api_key.created",
    "api_key.updated": "api_key.updated",
    "api_key.revoked": "api_key.deleted",
    "file.deleted": "resource.deleted",
    "invite.accepted": "invite.accepted",
    "invite.deleted": "invite.deleted",
    "invite.sent": "invite.sent",
    "organization.active": "organization.updated",
    "organization.suspended": "organization.updated",
    "project.archived": "project.archived",
    "project.created": "project.created",
    "project.updated": "project.updated",
    "project_user.added": "role.assignment.created",
    "project_user.removed": "role.assignment.deleted",
    "project_user.updated": "role.assignment.created",
    "rate_limit.updated": "rate_limit.updated",
    "service_account.created": "service_account.created",
    "service_account.deleted": "service_account.deleted",
    "service_account.updated": "service_account.updated",
    "user.added": "user.added",
    "user.deleted": "user.deleted",
    "user.updated": "user.updated",
    "webhook_endpoint.deleted": "resource.deleted",
}
"""Our action -> OpenAI's event type. Other actions have no type there and are shown when they are asked for."""


@dataclass(frozen=True, kw_only=True)
class AuditFilter:
    """What to show; empty lists narrow nothing."""

    event_types: Sequence[str] = ()
    """Of OpenAI's types or our own actions. None at all shows what has one of OpenAI's types."""
    includes_all: bool = False
    """Also what has none, under our own names, which strict clients refuse."""
    actor_ids: Sequence[str] = ()
    actor_emails: Sequence[str] = ()
    project_ids: Sequence[str] = ()
    resource_ids: Sequence[str] = ()
    bounds: dict[str, int] = field(default_factory=dict)
    """``gt``, ``gte``, ``lt``, ``lte`` in whole seconds since 1970, as the log shows them."""


@dataclass(frozen=True)
class Actors:
    """Who the actors of some audit rows are, by wire id, as far as they are still there."""

    keys: dict[str, ApiKey]
    users: dict[str, User]
    projects: dict[str, Project]


def audit_events(*, wanted: AuditFilter) -> QuerySet[AuditEvent]:
    """The rows. Call and read inside the scope."""
    events = AuditEvent.objects.all()
    if wanted.event_types:
        asked = set(wanted.event_types)
        events = events.filter(
            action__in=[
                *asked - set(EVENT_TYPES.values()),
                *(ours for ours, name in EVENT_TYPES.items() if name in asked),
            ]
        )
    elif not wanted.includes_all:
        events = events.filter(action__in=EVENT_TYPES)
    for name, value in wanted.bounds.items():
        events = events.filter(_bound(name, value))
    if wanted.actor_ids:
        events = events.filter(actor__in=wanted.actor_ids)
    if wanted.actor_emails:
        events = events.filter(actor__in=_actors_of(wanted.actor_emails))
    if wanted.project_ids:
        events = events.filter(project__in=wanted.project_ids)
    return events.filter(subject__in=wanted.resource_ids) if wanted.resource_ids else events


def actors_of(*, events: Sequence[AuditEvent]) -> Actors:
    """What can be said about the actors and projects of these rows. Call inside the scope."""
    names = {event.actor for event in events}
    keys = ApiKey.objects.filter(id__in=_ids(ApiKey.ID_PREFIX, names)).prefetch_related(owners())
    users = User.objects.filter(id__in=_ids(User.ID_PREFIX, names))
    projects = Project.objects.filter(id__in=_ids(Project.ID_PREFIX, {event.project for event in events}))
    return Actors(
        keys={key.wire_id: key for key in keys},
        users={to_wire(User.ID_PREFIX, user.id): user for user in users},
        projects={project.wire_id: project for project in projects},
    )


def render_audit_event(event: AuditEvent, actors: Actors) -> dict[str, Any]:
    """The wire object; ``action``, our own name of what was done, and ``request_id`` are ours."""
    name = EVENT_TYPES.get(event.action, event.action)
    shown: dict[str, Any] = {
        "id": event.wire_id,
        "type": name,
        "effective_at": int(event.created_at.timestamp()),
        "actor": _render_actor(event.actor, actors),
        name: _render_details(event, name),
        "action": event.action,
        "request_id": event.request_id or None,
    }
    if event.project:
        project = actors.projects.get(event.project)
        shown["project"] = {"id": event.project, "name": project.name if project else None}
    return shown


def _bound(name: str, value: int) -> Q:
    """Rows carry microseconds and are shown in whole seconds, by which they are compared."""
    moment = datetime.fromtimestamp(min(value + (name in ("gt", "lte")), MAX_SECONDS), UTC)
    return Q(created_at__gte=moment) if name in ("gt", "gte") else Q(created_at__lt=moment)


def _actors_of(emails: Sequence[str]) -> list[str]:
    """Wire ids of the members with these addresses, and of the keys they own."""
    users = Membership.objects.filter(user__email__in=[email.lower() for email in emails])
    user_ids = list(users.values_list("user_id", flat=True))
    keys = ApiKey.objects.filter(created_by_id__in=user_ids).values_list("id", flat=True)
    return [
        *(to_wire(User.ID_PREFIX, user_id) for user_id in user_ids),
        *(to_wire(ApiKey.ID_PREFIX, key_id) for key_id in keys),
    ]


def _ids(prefix: str, names: set[str]) -> list[UUID]:
    return [value for name in names if (value := from_wire(prefix, name)) is not None]


def _render_details(event: AuditEvent, name: str) -> dict[str, Any]:
    match name.rpartition(".")[2]:
        case _ if name.startswith("role.assignment."):
            return {
                "id": event.subject,
                "principal_id": event.subject,
                "principal_type": "user",
                "resource_id": event.project,
                "resource_type": "api.project",
                **event.details,
            }
        case "created" | "sent" | "added":
            return {"id": event.subject, "data": event.details}
        case "updated":
            return {"id": event.subject, "changes_requested": event.details}
    return {**event.details, "id": event.subject}


def _render_actor(name: str, actors: Actors) -> dict[str, Any] | None:
    """A key or a person; None is the operator's work."""
    if name.startswith(User.ID_PREFIX):
        user = actors.users.get(name)
        return {"type": "session", "session": {"user": {"id": name, "email": user.email if user else None}}}
    if not name.startswith(ApiKey.ID_PREFIX):
        return None
    shown: dict[str, Any] = {"id": name}
    key = actors.keys.get(name)
    if key is not None and key.service_account_id is not None:
        account_id = to_wire(ServiceAccount.ID_PREFIX, key.service_account_id)
        shown |= {"type": "service_account", "service_account": {"id": account_id}}
    elif key is not None and key.created_by is not None:
        user = key.created_by
        shown |= {"type": "user", "user": {"id": to_wire(User.ID_PREFIX, user.id), "email": user.email}}
    return {"type": "api_key", "api_key": shown}
