"""Webhooks in the published schema: what requests may hold, and the objects that answer them."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from common.contract import Contract, Query, listing, page_query, whole_list
from common.http import StrictSerializer
from common.shapes import (
    Shape,
    array,
    boolean,
    constant,
    count,
    deleted,
    integer,
    moment,
    nullable,
    one_of,
    text,
    wire_id,
)
from notifications.models import Delivery, Event, EventType, Failure, WebhookEndpoint
from notifications.transport import MAX_URL


@extend_schema_field({"type": "string", "format": "uri", "pattern": "^https?://"})
class UrlField(serializers.CharField):
    """Where to send; :func:`notifications.transport.check_url` judges it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=MAX_URL, **options)


class CreateEndpointSerializer(StrictSerializer):
    """Body of ``POST /v1/webhook_endpoints``."""

    name = serializers.CharField(max_length=200)
    url = UrlField()
    event_types = serializers.ListField(
        child=serializers.ChoiceField(choices=EventType.values), allow_empty=False, max_length=64
    )


class UpdateEndpointSerializer(CreateEndpointSerializer):
    """Body of ``POST /v1/webhook_endpoints/{id}``: every member may be left out; ``enabled`` is ours."""

    enabled = serializers.BooleanField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "partial": True})


class RotateSecretSerializer(StrictSerializer):
    """Body of ``POST /v1/webhook_endpoints/{id}/rotate_secret``."""

    keep_old_secret_active_for_24_hours = serializers.BooleanField(required=False, default=False)


class EndpointTestSerializer(StrictSerializer):
    """Body of ``POST /v1/webhook_endpoints/{id}/test``."""

    event_type = serializers.ChoiceField(choices=EventType.values)


_EVENT_TYPE = one_of(EventType.values)
_ENDPOINT_FIELDS = {
    "id": wire_id(WebhookEndpoint.ID_PREFIX),
    "object": constant("webhook_endpoint"),
    "created_at": moment(),
    "updated_at": moment(),
    "name": text(most=200),
    "url": text(most=MAX_URL),
    "event_types": array(_EVENT_TYPE),
    "signing_secret_hint": text("The end of the signing secret."),
    "enabled": boolean("Whether events are sent there. Hone's."),
}
ENDPOINT = Shape(name="WebhookEndpoint", about="Where events are sent.", fields=_ENDPOINT_FIELDS)
ISSUED_ENDPOINT = Shape(
    name="IssuedWebhookEndpoint",
    about="An endpoint with its secret, which no other answer shows.",
    fields={
        **_ENDPOINT_FIELDS,
        "signing_secret": text("For `client.webhooks.unwrap(..., secret=...)`.", pattern="^whsec_"),
    },
)
EVENT = Shape(
    name="WebhookEvent",
    about="What is sent.",
    fields={
        "id": wire_id(Event.ID_PREFIX),
        "object": constant("event"),
        "created_at": moment(),
        "type": _EVENT_TYPE,
        "data": Shape(
            name="WebhookEventData", about="What it has happened to.", fields={"id": text("Of a batch, for example.")}
        ),
    },
)
DELIVERY = Shape(
    name="WebhookDelivery",
    about="An event on its way to an endpoint.",
    fields={
        "id": wire_id(Delivery.ID_PREFIX),
        "object": constant("webhook_endpoint.delivery"),
        "created_at": moment(),
        "event": EVENT,
        "status": one_of(Delivery.State.values),
        "error": nullable(one_of(Failure.values, "Why the last attempt was not enough.")),
        "next_attempt_at": nullable(moment("null when nothing more is tried.")),
        "attempts": array(
            Shape(
                name="WebhookDeliveryAttempt",
                about="One request to the endpoint.",
                fields={
                    "number": integer(least=1),
                    "created_at": moment(),
                    "status_code": nullable(integer("Of the endpoint's answer.")),
                    "error": nullable(one_of(Failure.values)),
                    "milliseconds": count("How long it took."),
                },
            ),
            "Oldest first.",
        ),
    },
)

LIST_EVENT_TYPES = Contract(
    summary="List what can be subscribed to", answer=whole_list(_EVENT_TYPE, name="WebhookEventTypeList")
)  # fmt: skip
CREATE_ENDPOINT = Contract(
    summary="Create a webhook endpoint",
    description="This answer alone shows the secret with which events are signed.",
    body=CreateEndpointSerializer,
    creates=True,
    answer=ISSUED_ENDPOINT,
    errors=("conflict",),
)
LIST_ENDPOINTS = Contract(
    summary="List the project's webhook endpoints",
    query=page_query(WebhookEndpoint.ID_PREFIX),
    answer=listing(ENDPOINT),
)
RETRIEVE_ENDPOINT = Contract(summary="Show a webhook endpoint", answer=ENDPOINT)
UPDATE_ENDPOINT = Contract(
    summary="Change a webhook endpoint",
    description="What is not named stays as it is.",
    body=UpdateEndpointSerializer,
    answer=ENDPOINT,
)
DELETE_ENDPOINT = Contract(
    summary="Delete a webhook endpoint",
    answer=deleted("webhook_endpoint.deleted", WebhookEndpoint.ID_PREFIX, name="DeletedWebhookEndpoint"),
)
ROTATE_SECRET = Contract(
    summary="Make a new signing secret",
    description="This answer alone shows it.",
    body=RotateSecretSerializer,
    answer=ISSUED_ENDPOINT,
)
TEST_ENDPOINT = Contract(
    summary="Send a sample now",
    body=EndpointTestSerializer,
    answer=Shape(
        name="WebhookTest",
        about="What the endpoint has answered.",
        fields={
            "object": constant("webhook_endpoint.test"),
            "webhook_endpoint_id": wire_id(WebhookEndpoint.ID_PREFIX),
            "event_type": _EVENT_TYPE,
            "status_code": integer("Of the endpoint's answer."),
            "success": constant(value=True),
        },
    ),
    errors=("webhook_unreachable",),
)
LIST_DELIVERIES = Contract(
    summary="List what was sent to an endpoint",
    query=(
        *page_query(Delivery.ID_PREFIX),
        Query(name="status", schema=one_of(Delivery.State.values), about="Those in this state alone."),
    ),
    answer=listing(DELIVERY),
)
REPLAY = Contract(
    summary="Send an event again",
    description="The answer is the delivery, pending.",
    answer=DELIVERY,
    errors=("conflict",),
)
