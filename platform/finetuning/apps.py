"""Django application of fine-tuning."""

from django.apps import AppConfig


class FinetuningConfig(AppConfig):
    """From uploaded data to an evaluated model. Registers what a job consists of, work and blobs."""

    name = "finetuning"

    def ready(self) -> None:
        """Make kinds of work, blobs and inspectors known. A recipe that is none stops the start."""
        from catalog.dependents import register_dependent  # noqa: PLC0415  # needs models
        from common.orphans import register_blob_owner  # noqa: PLC0415
        from files.inspection import register_inspector  # noqa: PLC0415
        from finetuning import handlers, reports, selectors  # noqa: PLC0415
        from finetuning.artifacts import BLOBS as ARTIFACT_BLOBS  # noqa: PLC0415
        from finetuning.canaries import CanaryHandler  # noqa: PLC0415
        from finetuning.continuation import unfinished_successor  # noqa: PLC0415
        from finetuning.datasets import BLOB_KIND as DATASET_BLOBS  # noqa: PLC0415
        from finetuning.evaluation import BLOB_KIND as EXAMPLE_BLOBS  # noqa: PLC0415
        from finetuning.inspection import TrainingDataInspector  # noqa: PLC0415
        from finetuning.recipes import all_recipes  # noqa: PLC0415
        from fleet.handlers import register  # noqa: PLC0415

        register(handlers.PreparationHandler())
        register(handlers.TrainingHandler())
        register(handlers.PublicationHandler())
        register(handlers.EvaluationHandler())
        register(handlers.ReportHandler())
        register(handlers.ConclusionHandler())
        register(handlers.CheckpointHandler())
        register(CanaryHandler())
        register_dependent(unfinished_successor)
        register_blob_owner(kind=EXAMPLE_BLOBS, referenced=reports.referenced_examples)
        for kind in (ARTIFACT_BLOBS, DATASET_BLOBS):
            register_blob_owner(kind=kind, referenced=selectors.referenced_blobs)
        register_inspector(TrainingDataInspector())
        all_recipes()
