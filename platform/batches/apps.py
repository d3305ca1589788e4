"""Django application of batches."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Registers the kinds of work that a batch consists of, and whose the blobs of its segments are."""

    name = "batches"

    def ready(self) -> None:
        """Make the kinds known to the fleet, and the blobs to the sweep of orphans."""
        from batches import handlers, selectors  # noqa: PLC0415  # needs models
        from common.orphans import register_blob_owner  # noqa: PLC0415
        from fleet.handlers import register  # noqa: PLC0415

        register(handlers.ValidationHandler())
        register(handlers.ShardHandler())
        register(handlers.AssemblyHandler())
        register(handlers.ClearingHandler())
        register_blob_owner(kind="segments", referenced=selectors.referenced_blobs)
