"""Django application of billing."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Owns every balance; moves one only together with the posting that says why."""

    name = "billing"
