"""Routes below ``/v1``."""

from django.urls import path

from catalog.api import ModelListView, ModelView

urlpatterns = [
    path("models", ModelListView.as_view()),
    # A name that holds a slash is not found, like any other that does not exist.
    path("models/<path:name>", ModelView.as_view()),
]
