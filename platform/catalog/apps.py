"""Django application of models and prices."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """The catalogue belongs to the installation, not to a tenant."""

    name = "catalog"
