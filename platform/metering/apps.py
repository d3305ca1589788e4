"""Django application of metering."""

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    """Counts; never re-prices."""

    name = "metering"
