"""Django application of notifications."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    """Tells customers' servers what has happened, at least once, and reaches nothing but public addresses."""

    name = "notifications"
