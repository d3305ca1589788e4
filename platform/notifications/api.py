"""``/v1/webhook_endpoints`` and ``/v1/webhook_event_types``."""

from datetime import datetime
from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import HoneError
from common.http import parsed
from common.pagination import page_request, paginate
from notifications import contracts
from notifications.contracts import (
    CreateEndpointSerializer,
    EndpointTestSerializer,
    RotateSecretSerializer,
    UpdateEndpointSerializer,
)
from notifications.models import Delivery, DeliveryAttempt, EventType, WebhookEndpoint
from notifications.selectors import endpoint_deliveries, get_endpoint, live_endpoints
from notifications.services import (
    EndpointChanges,
    IssuedEndpoint,
    create_endpoint,
    delete_endpoint,
    replay_delivery,
    rotate_secret,
    send_test,
    update_endpoint,
)
from notifications.signing import secret_hint, signing_secret
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


def render_endpoint(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """The wire object; ``enabled`` is ours."""
    secret = signing_secret(endpoint_id=endpoint.id, version=endpoint.secret_version)
    return {
        "id": endpoint.wire_id,
        "object": "webhook_endpoint",
        "created_at": _seconds(endpoint.created_at),
        "updated_at": _seconds(endpoint.updated_at),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "signing_secret_hint": secret_hint(secret),
        "enabled": endpoint.enabled,
    }


def render_issued(issued: IssuedEndpoint) -> dict[str, Any]:
    """The wire object with the secret, for the one answer that shows it."""
    return {**render_endpoint(issued.endpoint), "signing_secret": issued.secret}


def render_delivery(delivery: Delivery) -> dict[str, Any]:
    """One entry of the delivery log, with its attempts, oldest first."""
    return {
        "id": delivery.wire_id,
        "object": "webhook_endpoint.delivery",
        "created_at": _seconds(delivery.created_at),
        "event": {
            "id": delivery.event.wire_id,
            "object": "event",
            "created_at": _seconds(delivery.event.created_at),
            "type": delivery.event.type,
            "data": {"id": delivery.event.object_id},
        },
        "status": delivery.state,
        "error": delivery.error or None,
        "next_attempt_at": _seconds(delivery.next_attempt_at) if delivery.next_attempt_at else None,
        "attempts": [_render_attempt(attempt) for attempt in delivery.log.all()],
    }


class EventTypeListView(TenantAPIView):
    """What can be subscribed to."""

    operations: ClassVar = {"GET": "webhooks.list_event_types"}
    contracts: ClassVar = {"GET": contracts.LIST_EVENT_TYPES}

    def get(self, request: Request) -> Response:
        """All of them."""
        return Response({"object": "list", "data": EventType.values})


class EndpointListView(TenantAPIView):
    """Create an endpoint; list the project's."""

    operations: ClassVar = {"POST": "webhooks.create", "GET": "webhooks.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_ENDPOINT, "GET": contracts.LIST_ENDPOINTS}

    def post(self, request: Request) -> Response:
        """Create; the answer alone shows the secret."""
        data = parsed(CreateEndpointSerializer, request)
        asked = self.create_request(request.data)
        issued = create_endpoint(project=self.project, actor=self.principal.actor, request=asked, **data)
        return Response(render_issued(issued))

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=WebhookEndpoint.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(live_endpoints(project=self.project), wanted)
        return Response(page.render(render_endpoint))


class EndpointView(TenantAPIView):
    """One endpoint."""

    operations: ClassVar = {"GET": "webhooks.retrieve", "POST": "webhooks.update", "DELETE": "webhooks.delete"}
    contracts: ClassVar = {
        "GET": contracts.RETRIEVE_ENDPOINT,
        "POST": contracts.UPDATE_ENDPOINT,
        "DELETE": contracts.DELETE_ENDPOINT,
    }

    def get(self, request: Request, webhook_endpoint_id: str) -> Response:
        """The endpoint object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_endpoint(get_endpoint(project=self.project, wire_id=webhook_endpoint_id)))

    def post(self, request: Request, webhook_endpoint_id: str) -> Response:
        """Change what is named."""
        endpoint = update_endpoint(
            project=self.project,
            wire_id=webhook_endpoint_id,
            changes=EndpointChanges(**parsed(UpdateEndpointSerializer, request)),
            actor=self.principal.actor,
        )
        return Response(render_endpoint(endpoint))

    def delete(self, request: Request, webhook_endpoint_id: str) -> Response:
        """Delete."""
        endpoint = delete_endpoint(project=self.project, wire_id=webhook_endpoint_id, actor=self.principal.actor)
        return Response({"id": endpoint.wire_id, "object": "webhook_endpoint.deleted", "deleted": True})


class SecretRotationView(TenantAPIView):
    """A new secret."""

    operations: ClassVar = {"POST": "webhooks.rotate_secret"}
    contracts: ClassVar = {"POST": contracts.ROTATE_SECRET}

    def post(self, request: Request, webhook_endpoint_id: str) -> Response:
        """Rotate; the answer alone shows the secret."""
        data = parsed(RotateSecretSerializer, request)
        issued = rotate_secret(
            project=self.project,
            wire_id=webhook_endpoint_id,
            keep_old=data["keep_old_secret_active_for_24_hours"],
            actor=self.principal.actor,
        )
        return Response(render_issued(issued))


class EndpointTestView(TenantAPIView):
    """A sample, now."""

    operations: ClassVar = {"POST": "webhooks.test"}
    contracts: ClassVar = {"POST": contracts.TEST_ENDPOINT}

    def post(self, request: Request, webhook_endpoint_id: str) -> Response:
        """Send it and say what the endpoint answered."""
        event_type = parsed(EndpointTestSerializer, request)["event_type"]
        status = send_test(project=self.project, wire_id=webhook_endpoint_id, event_type=event_type)
        return Response(
            {
                "object": "webhook_endpoint.test",
                "webhook_endpoint_id": webhook_endpoint_id,
                "event_type": event_type,
                "status_code": status,
                "success": True,
            }
        )


class DeliveryListView(TenantAPIView):
    """The delivery log of an endpoint."""

    operations: ClassVar = {"GET": "webhooks.list_deliveries"}
    contracts: ClassVar = {"GET": contracts.LIST_DELIVERIES}

    def get(self, request: Request, webhook_endpoint_id: str) -> Response:
        """One page, newest first; ``status`` filters."""
        query = request.query_params.dict()
        wanted = page_request(query, prefix=Delivery.ID_PREFIX)
        state = query.get("status")
        if state is not None and state not in Delivery.State.values:
            known = ", ".join(Delivery.State.values)
            raise HoneError("invalid_value", f"'status' must be one of {known}, not '{state}'", param="status")
        with tenant_scope(self.principal.organization_id):
            endpoint = get_endpoint(project=self.project, wire_id=webhook_endpoint_id)
            page = paginate(endpoint_deliveries(endpoint=endpoint, state=state), wanted)
        return Response(page.render(render_delivery))


class DeliveryReplayView(TenantAPIView):
    """Once more."""

    operations: ClassVar = {"POST": "webhooks.replay"}
    contracts: ClassVar = {"POST": contracts.REPLAY}

    def post(self, request: Request, webhook_endpoint_id: str, delivery_id: str) -> Response:
        """Queue the event again; the answer is the delivery, pending."""
        delivery = replay_delivery(
            project=self.project,
            endpoint_wire_id=webhook_endpoint_id,
            wire_id=delivery_id,
            actor=self.principal.actor,
        )
        return Response(render_delivery(delivery))


def _render_attempt(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "created_at": _seconds(attempt.created_at),
        "status_code": attempt.status_code,
        "error": attempt.error or None,
        "milliseconds": attempt.milliseconds,
    }


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
