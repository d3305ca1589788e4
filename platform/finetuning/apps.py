"""Django application of fine-tuning."""

from django.apps import AppConfig


class FinetuningConfig(AppConfig):
    """From uploaded data to an evaluated model."""

    name = "finetuning"

    def ready(self) -> None:
        """Say who looks at training data. A recipe that is none stops the start."""
        from files.inspection import register_inspector  # noqa: PLC0415  # needs models
        from finetuning.inspection import TrainingDataInspector  # noqa: PLC0415
        from finetuning.recipes import all_recipes  # noqa: PLC0415

        register_inspector(TrainingDataInspector())
        all_recipes()
