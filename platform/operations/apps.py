"""Django application of the operators' work."""

from django.apps import AppConfig


class OperationsConfig(AppConfig):
    """Above all apps that hold data, so that it can speak for all of them."""

    name = "operations"
