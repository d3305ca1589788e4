"""Django application of tenancy."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Everything a customer owns hangs on an organisation of this app."""

    name = "tenants"
