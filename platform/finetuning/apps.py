"""Django application of fine-tuning."""

from django.apps import AppConfig


class FinetuningConfig(AppConfig):
    """From uploaded data to an evaluated model."""

    name = "finetuning"
