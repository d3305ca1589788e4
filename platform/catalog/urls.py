"""Routes below ``/v1``."""

from django.urls import path

from catalog.api import ModelListView, ModelPolicyView, ModelView, RateLimitListView, RateLimitView

_PROJECT = "organization/projects/<str:project_id>"

urlpatterns = [
    path("models", ModelListView.as_view()),
    # A name that holds a slash is not found, like any other that does not exist.
    path("models/<path:name>", ModelView.as_view()),
    path(f"{_PROJECT}/rate_limits", RateLimitListView.as_view()),
    path(f"{_PROJECT}/rate_limits/<str:rate_limit_id>", RateLimitView.as_view()),
    path(f"{_PROJECT}/model_permissions", ModelPolicyView.as_view()),
]
