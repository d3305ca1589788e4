"""Django application of batches."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Registers the kinds of work that a batch consists of."""

    name = "batches"

    def ready(self) -> None:
        """Make the kinds known to the fleet."""
        from batches import handlers  # noqa: PLC0415  # needs models
        from fleet.handlers import register  # noqa: PLC0415

        register(handlers.ValidationHandler())
        register(handlers.ShardHandler())
        register(handlers.AssemblyHandler())
        register(handlers.ClearingHandler())
