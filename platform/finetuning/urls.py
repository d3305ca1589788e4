"""Routes below ``/v1`` and, for nodes, below ``/internal/v1``."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
internal_urlpatterns: list[URLPattern] = []
