"""Django application of people."""

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    """Users belong to no tenant: one person may be a member of several organisations."""

    name = "accounts"
