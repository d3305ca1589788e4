"""Django application of batches."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Registers what a batch consists of, work and blobs, and what it does when there is credit again."""

    name = "batches"

    def ready(self) -> None:
        """Make the kinds known to the fleet, the blobs to the sweep of orphans, and ask for news of credit."""
        from batches import handlers, selectors  # noqa: PLC0415  # needs models
        from batches.funding import steer_for_credit  # noqa: PLC0415
        from batches.inspection import BatchInputInspector  # noqa: PLC0415
        from billing.watchers import on_credit  # noqa: PLC0415
        from catalog.dependents import register_dependent  # noqa: PLC0415
        from common.orphans import register_blob_owner  # noqa: PLC0415
        from files.inspection import register_inspector  # noqa: PLC0415
        from fleet.handlers import register  # noqa: PLC0415

        register(handlers.ValidationHandler())
        register(handlers.ShardHandler())
        register(handlers.TunedShardHandler())
        register(handlers.AssemblyHandler())
        register(handlers.ClearingHandler())
        register_blob_owner(kind="segments", referenced=selectors.referenced_blobs)
        register_dependent(selectors.find_running_batch)
        register_inspector(BatchInputInspector())
        on_credit(steer_for_credit)
