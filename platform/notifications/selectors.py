"""Reads about webhooks."""

from django.db.models import Prefetch, QuerySet

from common.errors import not_found
from common.ids import from_wire
from notifications.models import Delivery, DeliveryAttempt, WebhookEndpoint
from tenants.models import Project


def live_endpoints(*, project: Project) -> QuerySet[WebhookEndpoint]:
    """Endpoints of a project, disabled ones included."""
    return WebhookEndpoint.objects.filter(project_id=project.id, deleted_at=None)


def get_endpoint(*, project: Project, wire_id: str) -> WebhookEndpoint:
    """One endpoint of the project, or ``not_found``."""
    endpoint_id = from_wire(WebhookEndpoint.ID_PREFIX, wire_id)
    endpoint = live_endpoints(project=project).filter(id=endpoint_id).first() if endpoint_id else None
    if endpoint is None:
        raise not_found("webhook endpoint", wire_id)
    return endpoint


def endpoint_deliveries(*, endpoint: WebhookEndpoint, state: str | None = None) -> QuerySet[Delivery]:
    """Deliveries to an endpoint with their events and logs."""
    log = Prefetch("log", queryset=DeliveryAttempt.objects.order_by("number"))
    deliveries = Delivery.objects.filter(endpoint_id=endpoint.id).select_related("event").prefetch_related(log)
    return deliveries.filter(state=state) if state else deliveries
