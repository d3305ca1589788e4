"""Django application of the domain-free parts."""

from django.apps import AppConfig


class CommonConfig(AppConfig):
    """Registers the management commands of this app."""

    name = "common"
