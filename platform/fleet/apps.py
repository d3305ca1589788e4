"""Django application of the fleet."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    """Hands out work without knowing what it is; each kind registers a handler (:mod:`fleet.handlers`)."""

    name = "fleet"

    def ready(self) -> None:
        """Register the one kind that is about files, which know nothing of leases."""
        from fleet.file_reports import FileReportHandler  # noqa: PLC0415  # needs models
        from fleet.handlers import register  # noqa: PLC0415

        register(FileReportHandler())
