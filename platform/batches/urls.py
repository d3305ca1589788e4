"""Routes below ``/v1`` and, for nodes, below ``/internal/v1``."""

from django.urls import path

from batches import api
from batches.worker_api import LeaseInputView, SegmentView

urlpatterns = [
    path("batches", api.BatchListView.as_view()),
    path("batches/quote", api.BatchQuoteView.as_view()),
    path("batches/<str:batch_id>", api.BatchView.as_view()),
    path("batches/<str:batch_id>/cancel", api.BatchCancelView.as_view()),
    path("batches/<str:batch_id>/pause", api.BatchPauseView.as_view()),
    path("batches/<str:batch_id>/resume", api.BatchResumeView.as_view()),
    path("batches/<str:batch_id>/retry", api.BatchRetryView.as_view()),
    path("batches/<str:batch_id>/results", api.BatchResultListView.as_view()),
]
internal_urlpatterns = [
    path("leases/<str:lease_id>/input", LeaseInputView.as_view()),
    path("leases/<str:lease_id>/segments/<int:number>", SegmentView.as_view()),
]
