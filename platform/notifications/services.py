"""Writes about webhooks: endpoints, events, replay. How deliveries go out: :mod:`notifications.delivery`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.utils import timezone

from common.database import SYSTEM
from common.errors import HoneError, not_found
from common.ids import from_wire, to_wire, uuid7
from fleet.doorbell import hurry_after_commit
from notifications.delivery import end_deliveries, send_event
from notifications.models import Delivery, DeliveryAttempt, Event, EventType, Failure, WebhookEndpoint
from notifications.selectors import endpoint_deliveries, get_endpoint, live_endpoints
from notifications.signing import signing_secret, valid_secrets
from notifications.transport import check_url
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import record

SEND_TASK = "notifications.tasks.send_due"
OVERLAP = timedelta(hours=24)
SAMPLE_OBJECTS = {"batch": f"batch_{'0' * 32}", "fine_tuning": f"ftjob-{'0' * 32}"}
"""What the event of a test is about, by the beginning of its type: an id like any other, of nothing."""

# A test occupies a thread of the web server for as long as the other side likes, up to the time-out.
_tests = BoundedSemaphore(4)

# Shared locks: an endpoint that is being disabled or deleted waits for this transaction, or this one for it.
_SUBSCRIBED = """
SELECT id FROM notifications_webhookendpoint
WHERE organization_id = %(organization)s AND project_id = %(project)s AND deleted_at IS NULL AND enabled
    AND event_types @> ARRAY[%(type)s]::varchar[]
ORDER BY id FOR SHARE
"""
_EMIT = """
WITH event AS (
    INSERT INTO notifications_event (id, organization_id, project_id, type, object_id, created_at)
    VALUES (%(event)s, %(organization)s, %(project)s, %(type)s, %(object)s, now())
    ON CONFLICT (organization_id, type, object_id) DO NOTHING
    RETURNING id
)
INSERT INTO notifications_delivery (
    id, organization_id, event_id, endpoint_id, state, attempts, attempts_before_replay, next_attempt_at, error,
    created_at
)
SELECT pair.id, %(organization)s, event.id, pair.endpoint_id, 'pending', 0, 0, now(), '', now()
FROM event, unnest(%(deliveries)s::uuid[], %(endpoints)s::uuid[]) AS pair (id, endpoint_id)
"""


@dataclass(frozen=True, kw_only=True)
class EndpointChanges:
    """What a caller wants different; None leaves it as it is."""

    name: str | None = None
    url: str | None = None
    event_types: Sequence[str] | None = None
    enabled: bool | None = None


@dataclass(frozen=True)
class IssuedEndpoint:
    """An endpoint together with its signing secret, which is shown here and nowhere else."""

    endpoint: WebhookEndpoint
    secret: str


def emit_event(*, organization_id: UUID, project_id: UUID, type: str, object_id: str) -> None:  # noqa: A002  # its name
    """Tell the project's subscribers that ``type`` has happened to ``object_id``, a wire id.

    Call it inside the tenant's scope, in the transaction of the change: both are committed or neither is. Of the same
    type and object there is one event, however often this is called. Where nobody subscribes nothing is written, not
    even the event: nobody could ever be told of it, since a delivery belongs to an endpoint that wanted it then.
    Raises ValueError for a type that is none of :class:`notifications.models.EventType`.
    """
    row: dict[str, Any] = {
        "organization": organization_id,
        "project": project_id,
        "type": EventType(type).value,
        "object": object_id,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBED, row)
        endpoints = [endpoint_id for (endpoint_id,) in cursor.fetchall()]
        if not endpoints:
            return
        deliveries = [uuid7() for _ in endpoints]
        cursor.execute(_EMIT, {**row, "event": uuid7(), "deliveries": deliveries, "endpoints": endpoints})
        if cursor.rowcount:
            hurry_after_commit(task=SEND_TASK)


def create_endpoint(
    *, project: Project, name: str, url: str, event_types: Sequence[str], actor: str, request: CreateRequest
) -> IssuedEndpoint:
    """A new endpoint and its secret; a repetition of ``request`` gets the endpoint made then.

    The URL is checked as far as it can be without a look-up.
    """
    _check_name(name)
    check_url(url)
    with tenant_scope(project.organization_id):
        made = earlier(request, WebhookEndpoint)
        if made is not None:
            return _with_secret(made)
        # The project's row decides between two that want the last place.
        Project.objects.select_for_update(no_key=True).get(id=project.id)
        limit = settings.WEBHOOK_ENDPOINTS_PER_PROJECT
        if live_endpoints(project=project).count() >= limit:
            raise HoneError("conflict", f"The project has {limit} webhook endpoints already; delete one first")
        endpoint = WebhookEndpoint.objects.create(
            organization_id=project.organization_id,
            project_id=project.id,
            name=name,
            url=url,
            event_types=_known(event_types),
        )
        _record(endpoint, "created", actor, {"name": name, "event_types": endpoint.event_types})
        remember(request, endpoint)
    return _with_secret(endpoint)


def update_endpoint(*, project: Project, wire_id: str, changes: EndpointChanges, actor: str) -> WebhookEndpoint:
    """Change what differs; pending deliveries go to the new URL. Disabling ends them."""
    if changes.name is not None:
        _check_name(changes.name)
    wanted = {
        "name": changes.name,
        "url": changes.url,
        "event_types": None if changes.event_types is None else _known(changes.event_types),
        "enabled": changes.enabled,
    }
    with tenant_scope(project.organization_id):
        endpoint = _lock_endpoint(project=project, wire_id=wire_id)
        different = [name for name, value in wanted.items() if value is not None and value != getattr(endpoint, name)]
        if not different:
            return endpoint
        if changes.url is not None and "url" in different:
            check_url(changes.url)
        for name in different:
            setattr(endpoint, name, wanted[name])
        endpoint.updated_at = timezone.now()
        endpoint.save(update_fields=[*different, "updated_at"])
        if not endpoint.enabled:
            end_deliveries(endpoint_id=endpoint.id, error=Failure.ENDPOINT_DISABLED)
        # A URL may hold a secret of the customer's: that it changed is enough.
        _record(endpoint, "updated", actor, {"changed": different})
    return endpoint


def delete_endpoint(*, project: Project, wire_id: str, actor: str) -> WebhookEndpoint:
    """Delete an endpoint and give up its pending deliveries."""
    with tenant_scope(project.organization_id):
        endpoint = _lock_endpoint(project=project, wire_id=wire_id)
        endpoint.deleted_at = timezone.now()
        endpoint.save(update_fields=["deleted_at"])
        end_deliveries(endpoint_id=endpoint.id, error=Failure.ENDPOINT_DELETED)
        _record(endpoint, "deleted", actor)
    return endpoint


def rotate_secret(*, project: Project, wire_id: str, keep_old: bool, actor: str) -> IssuedEndpoint:
    """A new secret; with ``keep_old`` the one before signs beside it for 24 hours."""
    with tenant_scope(project.organization_id):
        endpoint = _lock_endpoint(project=project, wire_id=wire_id)
        endpoint.secret_version += 1
        endpoint.updated_at = timezone.now()
        endpoint.previous_secret_until = endpoint.updated_at + OVERLAP if keep_old else None
        endpoint.save(update_fields=["secret_version", "previous_secret_until", "updated_at"])
        _record(endpoint, "secret_rotated", actor, {"keep_old": keep_old})
    return _with_secret(endpoint)


def send_test(*, project: Project, wire_id: str, event_type: str) -> int:
    """Send a signed sample now, once; returns the HTTP status of the answer, ``webhook_unreachable`` without one.

    Nothing is stored, and the answer changes nothing: a 410 does not disable the endpoint.
    """
    with tenant_scope(project.organization_id):
        endpoint = get_endpoint(project=project, wire_id=wire_id)
    if not _tests.acquire(blocking=False):
        raise HoneError("service_unavailable", "Too many webhook tests are running; try again", retry_after=5)
    try:
        now = timezone.now()
        answer = send_event(
            url=endpoint.url,
            secrets=valid_secrets(
                endpoint_id=endpoint.id,
                version=endpoint.secret_version,
                previous_until=endpoint.previous_secret_until,
                at=now,
            ),
            event_id=to_wire(Event.ID_PREFIX, uuid7()),
            event_type=event_type,
            object_id=SAMPLE_OBJECTS[event_type.partition(".")[0]],
            created_at=now,
            sent_at=now,
        )
    finally:
        _tests.release()
    if answer.status is None:
        raise HoneError("webhook_unreachable", f"The endpoint gave no answer: {answer.error}")
    return answer.status


def replay_delivery(*, project: Project, endpoint_wire_id: str, wire_id: str, actor: str) -> Delivery:
    """Send an event again, whatever became of it, with the whole back-off before it. Repeating it is harmless."""
    delivery_id = from_wire(Delivery.ID_PREFIX, wire_id)
    with tenant_scope(project.organization_id):
        endpoint = _lock_endpoint(project=project, wire_id=endpoint_wire_id)
        locked = Delivery.objects.select_for_update(no_key=True).filter(endpoint_id=endpoint.id)
        delivery = locked.filter(id=delivery_id).first() if delivery_id else None
        if delivery is None:
            raise not_found("delivery", wire_id)
        if not endpoint.enabled:
            raise HoneError("conflict", "The endpoint is disabled; enable it first", param="id")
        delivery.state = Delivery.State.PENDING
        delivery.attempts_before_replay = delivery.attempts
        delivery.next_attempt_at = Now()
        delivery.error = ""
        delivery.save(update_fields=["state", "attempts_before_replay", "next_attempt_at", "error"])
        record(
            actor=actor,
            action="webhook_delivery.replayed",
            subject=delivery.wire_id,
            organization_id=project.organization_id,
        )
        hurry_after_commit(task=SEND_TASK)
        return endpoint_deliveries(endpoint=endpoint).get(id=delivery.id)


def delete_old_events(*, limit: int = 1_000) -> int:
    """Forget events past their retention that are on their way to nobody, with their log; returns how many."""
    if settings.WEBHOOK_RETENTION_DAYS == 0:
        return 0
    # Age crosses tenants, and nobody has an audit trail of what merely grows old: hence the system role.
    pending = Delivery.all_tenants.filter(event_id=OuterRef("id"), state=Delivery.State.PENDING)
    age = timedelta(days=settings.WEBHOOK_RETENTION_DAYS)
    with transaction.atomic(using=SYSTEM):
        old = Event.all_tenants.filter(~Exists(pending), created_at__lt=Now() - age).order_by("created_at")
        ids = list(old.values_list("id", flat=True)[:limit])
        # Locked, and read again: a customer may have asked for a replay in between.
        deliveries = Delivery.all_tenants.select_for_update().filter(event_id__in=ids).order_by("id")
        revived = {delivery.event_id for delivery in deliveries if delivery.state == Delivery.State.PENDING}
        ended = [event_id for event_id in ids if event_id not in revived]
        DeliveryAttempt.all_tenants.filter(delivery__event_id__in=ended).delete()
        Delivery.all_tenants.filter(event_id__in=ended).delete()
        Event.all_tenants.filter(id__in=ended).delete()
    return len(ended)


def _lock_endpoint(*, project: Project, wire_id: str) -> WebhookEndpoint:
    """The endpoint, locked until the scope ends; ``not_found`` otherwise."""
    endpoint_id = from_wire(WebhookEndpoint.ID_PREFIX, wire_id)
    locked = live_endpoints(project=project).select_for_update(no_key=True)
    endpoint = locked.filter(id=endpoint_id).first() if endpoint_id else None
    if endpoint is None:
        raise not_found("webhook endpoint", wire_id)
    return endpoint


def _with_secret(endpoint: WebhookEndpoint) -> IssuedEndpoint:
    return IssuedEndpoint(endpoint, signing_secret(endpoint_id=endpoint.id, version=endpoint.secret_version))


def _check_name(name: str) -> None:
    if not 0 < len(name) <= 200 or not name.isprintable() or name.isspace():
        raise HoneError("invalid_value", "'name' must have 1 to 200 printable characters", param="name")


def _known(event_types: Sequence[str]) -> list[str]:
    """Without repetitions, in the order in which they are published."""
    return [known.value for known in EventType if known.value in event_types]


def _record(endpoint: WebhookEndpoint, what: str, actor: str, details: dict[str, Any] | None = None) -> None:
    record(
        actor=actor,
        action=f"webhook_endpoint.{what}",
        subject=endpoint.wire_id,
        organization_id=endpoint.organization_id,
        project_id=endpoint.project_id,
        details=details,
    )
