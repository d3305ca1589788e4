"""Django application of fine-tuning."""

from django.apps import AppConfig


class FinetuningConfig(AppConfig):
    """From uploaded data to an evaluated model."""

    name = "finetuning"

    def ready(self) -> None:
        """Make the kinds of work known to the fleet."""
        from finetuning.canaries import CanaryHandler  # noqa: PLC0415  # needs models
        from fleet.handlers import register  # noqa: PLC0415

        register(CanaryHandler())
