"""Routes below ``/internal/v1``."""

from django.urls import path

from fleet import api

urlpatterns = [
    path("nodes", api.NodeListView.as_view()),
    path("nodes/<str:name>", api.NodeView.as_view()),
    path("nodes/<str:node_id>/heartbeat", api.NodeHeartbeatView.as_view()),
    path("nodes/<str:node_id>/leases", api.NodeLeasesView.as_view()),
    path("nodes/<str:node_id>/adapters", api.NodeAdaptersView.as_view()),
    path("leases/<str:lease_id>/adapter/<str:name>", api.LeaseAdapterView.as_view()),
    path("leases/<str:lease_id>/complete", api.LeaseCompleteView.as_view()),
    path("leases/<str:lease_id>/fail", api.LeaseFailView.as_view()),
]
