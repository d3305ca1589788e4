"""Routes below ``/v1``."""

from django.urls import path

from catalog import tuned_api
from catalog.api import ModelListView, ModelPolicyView, ModelView, RateLimitListView, RateLimitView

_PROJECT = "organization/projects/<str:project_id>"
_PERMISSIONS = "fine_tuning/checkpoints/<str:checkpoint>/permissions"

urlpatterns = [
    path("models", ModelListView.as_view()),
    path("models/aliases", tuned_api.AliasListView.as_view()),
    path("models/aliases/<str:alias>", tuned_api.AliasView.as_view()),
    path("models/aliases/<str:alias>/rollback", tuned_api.AliasRollbackView.as_view()),
    path("models/aliases/<str:alias>/history", tuned_api.AliasHistoryView.as_view()),
    path("models/<str:name>/download", tuned_api.ModelDownloadView.as_view()),
    path("models/<str:name>/manifest", tuned_api.ModelManifestView.as_view()),
    # A name that holds a slash is not found, like any other that does not exist.
    path("models/<path:name>", ModelView.as_view()),
    path("signing_key", tuned_api.SigningKeyView.as_view()),
    path(_PERMISSIONS, tuned_api.PermissionListView.as_view()),
    path(f"{_PERMISSIONS}/<str:permission_id>", tuned_api.PermissionView.as_view()),
    path(f"{_PROJECT}/rate_limits", RateLimitListView.as_view()),
    path(f"{_PROJECT}/rate_limits/<str:rate_limit_id>", RateLimitView.as_view()),
    path(f"{_PROJECT}/model_permissions", ModelPolicyView.as_view()),
]
