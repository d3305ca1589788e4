"""Routes below ``/v1``."""

from django.urls import path

from metering.api import CompletionsUsageView, EmbeddingsUsageView

urlpatterns = [
    path("organization/usage/completions", CompletionsUsageView.as_view()),
    path("organization/usage/embeddings", EmbeddingsUsageView.as_view()),
]
