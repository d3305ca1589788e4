"""Routes below ``/v1``."""

from django.urls import path

from catalog.api import ModelListView, ModelView

urlpatterns = [
    path("models", ModelListView.as_view()),
    path("models/<str:name>", ModelView.as_view()),
]
