"""Routes below ``/v1`` and, for nodes, below ``/internal/v1``."""

from django.urls import path

from batches.api import BatchCancelView, BatchListView, BatchView
from batches.worker_api import LeaseInputView, SegmentView

urlpatterns = [
    path("batches", BatchListView.as_view()),
    path("batches/<str:batch_id>", BatchView.as_view()),
    path("batches/<str:batch_id>/cancel", BatchCancelView.as_view()),
]
internal_urlpatterns = [
    path("leases/<str:lease_id>/input", LeaseInputView.as_view()),
    path("leases/<str:lease_id>/segments/<int:number>", SegmentView.as_view()),
]
