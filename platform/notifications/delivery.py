"""Sending what is due: claim, send outside of every transaction, record.

At least once: a claim only moves the time of the next attempt ahead, so what a killed sender held is due again by
itself. An outcome counts while its attempt is the delivery's latest; an older one is only logged.
"""

import random
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson
import structlog
from django.conf import settings
from django.db import connections
from django.db.models.functions import Now

from common.database import SYSTEM
from common.ids import to_wire
from notifications.models import Delivery, DeliveryAttempt, Event, Failure, WebhookEndpoint
from notifications.signing import signature_headers, valid_secrets
from notifications.transport import Answer, post
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

BACK_OFF = [
    *(timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10)),
    *(timedelta(hours=1), timedelta(hours=3), timedelta(hours=6)),
    *[timedelta(hours=12)] * 5,
]
"""Pauses between attempts, before jitter: 13 attempts in about 70 hours."""
JITTER = 0.2
"""Each pause is longer or shorter by up to this part, so that what failed together does not come back together."""
PARALLEL = 32
PARALLEL_PER_ORGANIZATION = 16
PARALLEL_PER_ENDPOINT = 4
RUN_SECONDS = 20
"""After so long a run claims nothing more: the control workers have other work, too."""
LOOK_SECONDS = 1
"""How often a run whose requests are all slow looks for others that are due."""
CLAIM_SECONDS = 60
"""Beyond the time of a request: name look-ups keep times of their own."""

# Endpoints with something due, a few deliveries of each; organisations take turns, and within one chance decides, so
# that neither many endpoints nor a long queue behind a dead one keeps others waiting. Chosen first and locked after:
# locks are taken on what is claimed alone, and what another sender has claimed meanwhile is not due any more.
_CLAIM = """
WITH due AS (
    SELECT head.id, endpoint.organization_id
    FROM notifications_webhookendpoint endpoint
    CROSS JOIN LATERAL (
        SELECT id FROM notifications_delivery
        WHERE endpoint_id = endpoint.id AND state = 'pending' AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT %(per_endpoint)s
    ) head
    WHERE endpoint.enabled AND endpoint.deleted_at IS NULL AND endpoint.id <> ALL (%(busy_endpoints)s::uuid[])
),
busy AS (
    SELECT organization_id, count(*) AS requests
    FROM unnest(%(busy_organizations)s::uuid[]) AS request (organization_id) GROUP BY organization_id
),
queue AS (
    SELECT due.id, coalesce(busy.requests, 0)
        + row_number() OVER (PARTITION BY due.organization_id ORDER BY random()) AS turn
    FROM due LEFT JOIN busy ON busy.organization_id = due.organization_id
),
wanted AS (
    SELECT id FROM queue WHERE turn <= %(per_organization)s ORDER BY turn, random() LIMIT %(free)s
),
picked AS (
    -- Lateral, so that it can only be a look-up of each: the log may be long.
    SELECT delivery.id FROM wanted CROSS JOIN LATERAL (
        SELECT id FROM notifications_delivery
        WHERE id = wanted.id AND state = 'pending' AND next_attempt_at <= now()
        FOR NO KEY UPDATE SKIP LOCKED
    ) delivery
)
UPDATE notifications_delivery delivery SET
    attempts = delivery.attempts + 1, next_attempt_at = now() + make_interval(secs => %(hold)s)
FROM picked, notifications_event event, notifications_webhookendpoint endpoint
WHERE delivery.id = picked.id AND event.id = delivery.event_id AND endpoint.id = delivery.endpoint_id
RETURNING delivery.organization_id, delivery.id, delivery.attempts, delivery.attempts_before_replay,
    event.id, event.type, event.object_id, event.created_at,
    endpoint.id, endpoint.url, endpoint.secret_version, endpoint.previous_secret_until, now()
"""


@dataclass(frozen=True)
class Attempt:
    """One claimed attempt: everything the request needs, read in the claim."""

    organization_id: UUID
    delivery_id: UUID
    number: int
    attempts_before_replay: int
    event_id: UUID
    event_type: str
    object_id: str
    event_at: datetime
    endpoint_id: UUID
    url: str
    secret_version: int
    previous_secret_until: datetime | None
    begun_at: datetime


def send_due_deliveries(*, parallel: int = PARALLEL) -> int:
    """Send until nothing is due, or for about ``RUN_SECONDS``; returns how many attempts were made."""
    claim_until = time.monotonic() + RUN_SECONDS
    running: dict[Future[Answer], Attempt] = {}
    made = 0
    # The threads do nothing but talk to the other side: one database connection is enough for all of them.
    with ThreadPoolExecutor(parallel, thread_name_prefix="webhooks") as pool:
        while True:
            if len(running) < parallel and time.monotonic() < claim_until:
                for attempt in claim_deliveries(limit=parallel - len(running), running=running.values()):
                    running[pool.submit(send, attempt)] = attempt
            if not running:
                return made
            done, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                record_attempt(attempt=running.pop(future), answer=_answer_of(future))
                made += 1


def claim_deliveries(*, limit: int, running: Collection[Attempt] = ()) -> list[Attempt]:
    """Take at most ``limit`` due deliveries beside those that this sender has running.

    Crosses tenants: hence the system role.
    """
    with connections[SYSTEM].cursor() as cursor:
        cursor.execute(
            _CLAIM,
            {
                "free": limit,
                "per_endpoint": PARALLEL_PER_ENDPOINT,
                "per_organization": PARALLEL_PER_ORGANIZATION,
                "busy_endpoints": list({attempt.endpoint_id for attempt in running}),
                "busy_organizations": [attempt.organization_id for attempt in running],
                "hold": settings.WEBHOOK_TIMEOUT_SECONDS + CLAIM_SECONDS,
            },
        )
        return [Attempt(*row) for row in cursor.fetchall()]


def send(attempt: Attempt) -> Answer:
    """Make the request."""
    secrets = valid_secrets(
        endpoint_id=attempt.endpoint_id,
        version=attempt.secret_version,
        previous_until=attempt.previous_secret_until,
        at=attempt.begun_at,
    )
    return send_event(
        url=attempt.url,
        secrets=secrets,
        event_id=to_wire(Event.ID_PREFIX, attempt.event_id),
        event_type=attempt.event_type,
        object_id=attempt.object_id,
        created_at=attempt.event_at,
        sent_at=attempt.begun_at,
    )


def send_event(
    *,
    url: str,
    secrets: list[str],
    event_id: str,
    event_type: str,
    object_id: str,
    created_at: datetime,
    sent_at: datetime,
) -> Answer:
    """POST one event, signed. Takes up to ``settings.WEBHOOK_TIMEOUT_SECONDS``: never call it in a transaction."""
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(created_at.timestamp()),
        "type": event_type,
        "data": {"id": object_id},
    }
    body = orjson.dumps(event)
    headers = signature_headers(event_id=event_id, timestamp=int(sent_at.timestamp()), body=body, secrets=secrets)
    return post(url=url, headers=headers, body=body)


def record_attempt(*, attempt: Attempt, answer: Answer) -> None:
    """Write down what came of an attempt, and when the next one is due. 410 Gone disables the endpoint."""
    with tenant_scope(attempt.organization_id):
        if answer.status == 410:
            disable_endpoint(organization_id=attempt.organization_id, endpoint_id=attempt.endpoint_id)
        delivery = Delivery.objects.select_for_update(no_key=True).filter(id=attempt.delivery_id).first()
        if delivery is None:
            return  # deleted meanwhile, with all that the organisation had
        error = answer.error or ("" if answer.is_success else Failure.STATUS)
        DeliveryAttempt.objects.create(
            organization_id=attempt.organization_id,
            delivery_id=attempt.delivery_id,
            number=attempt.number,
            status_code=answer.status,
            error=error,
            milliseconds=answer.milliseconds,
            created_at=attempt.begun_at,
        )
        if delivery.attempts != attempt.number:
            return  # another sender has taken it over
        if answer.is_success:
            # Also where the endpoint's end has ended the delivery meanwhile: it did arrive.
            _settle(delivery, Delivery.State.DELIVERED)
        elif (
            delivery.state == Delivery.State.PENDING
            and delivery.attempts_before_replay == attempt.attempts_before_replay
        ):
            pause = back_off(attempt.number - attempt.attempts_before_replay)
            _settle(delivery, Delivery.State.PENDING if pause else Delivery.State.FAILED, error=error, pause=pause)


def back_off(attempts: int) -> timedelta | None:
    """The pause after so many attempts that failed, with jitter; None when they were enough."""
    if attempts > len(BACK_OFF):
        return None
    return BACK_OFF[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # spreads load, no secret


def disable_endpoint(*, organization_id: UUID, endpoint_id: UUID) -> None:
    """The other side has answered 410 Gone: send nothing more until the customer enables the endpoint again."""
    enabled = WebhookEndpoint.objects.filter(id=endpoint_id, enabled=True, deleted_at=None)
    if enabled.update(enabled=False, updated_at=Now()):
        end_deliveries(endpoint_id=endpoint_id, error=Failure.ENDPOINT_DISABLED)
        record(
            actor=SYSTEM_ACTOR,
            action="webhook_endpoint.disabled",
            subject=to_wire(WebhookEndpoint.ID_PREFIX, endpoint_id),
            organization_id=organization_id,
            details={"status_code": 410},
        )


def end_deliveries(*, endpoint_id: UUID, error: Failure) -> None:
    """Nothing more is tried for an endpoint. Call it after the endpoint has been changed, in the same transaction."""
    Delivery.objects.filter(endpoint_id=endpoint_id, state=Delivery.State.PENDING).update(
        state=Delivery.State.FAILED, next_attempt_at=None, error=error
    )


def _settle(delivery: Delivery, state: Delivery.State, *, error: str = "", pause: timedelta | None = None) -> None:
    delivery.state = state
    delivery.error = error
    delivery.next_attempt_at = Now() + pause if pause else None
    delivery.save(update_fields=["state", "error", "next_attempt_at"])


def _answer_of(future: "Future[Answer]") -> Answer:
    try:
        return future.result()
    except Exception:  # a bug, which must not keep the others from being recorded
        logger.exception("webhook not sent")
        return Answer(error=Failure.INTERNAL_ERROR)
