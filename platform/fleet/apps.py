"""Django application of the fleet."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    """Hands out work without knowing what it is; each kind registers a handler (:mod:`fleet.handlers`)."""

    name = "fleet"
