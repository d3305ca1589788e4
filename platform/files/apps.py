"""Django application of files."""

from django.apps import AppConfig


class FilesConfig(AppConfig):
    """Bytes live in the default storage, facts about them in Postgres."""

    name = "files"

    def ready(self) -> None:
        """Say whose the blobs are."""
        from common.orphans import register_blob_owner  # noqa: PLC0415
        from files.reports import BLOB_KIND, referenced_report_blobs  # noqa: PLC0415  # needs models
        from files.selectors import referenced_blobs, referenced_part_blobs  # noqa: PLC0415  # needs models

        register_blob_owner(kind="files", referenced=referenced_blobs)
        register_blob_owner(kind="parts", referenced=referenced_part_blobs)
        register_blob_owner(kind=BLOB_KIND, referenced=referenced_report_blobs)
