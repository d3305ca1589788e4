"""Routes below ``/v1``."""

from django.urls import path

from notifications.api import (
    DeliveryListView,
    DeliveryReplayView,
    EndpointListView,
    EndpointTestView,
    EndpointView,
    EventTypeListView,
    SecretRotationView,
)

urlpatterns = [
    path("webhook_event_types", EventTypeListView.as_view()),
    path("webhook_endpoints", EndpointListView.as_view()),
    path("webhook_endpoints/<str:webhook_endpoint_id>", EndpointView.as_view()),
    path("webhook_endpoints/<str:webhook_endpoint_id>/rotate_secret", SecretRotationView.as_view()),
    path("webhook_endpoints/<str:webhook_endpoint_id>/test", EndpointTestView.as_view()),
    path("webhook_endpoints/<str:webhook_endpoint_id>/deliveries", DeliveryListView.as_view()),
    path(
        "webhook_endpoints/<str:webhook_endpoint_id>/deliveries/<str:delivery_id>/replay", DeliveryReplayView.as_view()
    ),
]
