"""Webhooks as tests make and look at them."""

from typing import Any

from notifications.models import EventType
from notifications.services import emit_event
from tenants.scope import tenant_scope
from tests.support.cast import Member
from tests.support.facts import change

COMPLETED = EventType.BATCH_COMPLETED.value
PATH = "/v1/webhook_endpoints"


def make_endpoint(member: Member, url: str, *event_types: str) -> Any:
    """A new endpoint with its secret, for ``batch.completed`` unless told otherwise."""
    answer = member.client.post(PATH, {"name": "Hooks", "url": url, "event_types": list(event_types or (COMPLETED,))})
    assert answer.status_code == 200, answer.content
    return answer.json()


def emit(member: Member, *object_ids: str, type_: str = COMPLETED) -> None:
    """As the app does in whose transaction it happens."""
    for object_id in object_ids:
        with tenant_scope(member.organization.id):
            emit_event(
                organization_id=member.organization.id,
                project_id=member.project.id,
                type=type_,
                object_id=object_id,
            )


def deliveries(member: Member, endpoint: Any, **query: Any) -> list[Any]:
    """The delivery log of an endpoint, newest first."""
    answer = member.client.get(f"{PATH}/{endpoint['id']}/deliveries", data={"limit": 100, **query})
    assert answer.status_code == 200, answer.content
    found: list[Any] = answer.json()["data"]
    return found


def let_pause_pass() -> None:
    """As if the back-off, or the time for which a sender has claimed a delivery, were over."""
    change("UPDATE notifications_delivery SET next_attempt_at = now() - interval '1 second' WHERE state = 'pending'")
