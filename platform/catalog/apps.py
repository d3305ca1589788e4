"""Django application of models and prices."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """Base models and prices belong to the installation, fine-tuned models to projects."""

    name = "catalog"

    def ready(self) -> None:
        """Say whose the blobs are."""
        from catalog.publishing import BLOB_KIND  # noqa: PLC0415  # needs models
        from catalog.selectors import referenced_blobs  # noqa: PLC0415
        from common.orphans import register_blob_owner  # noqa: PLC0415

        register_blob_owner(kind=BLOB_KIND, referenced=referenced_blobs)
