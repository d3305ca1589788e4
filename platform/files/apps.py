"""Django application of files."""

from django.apps import AppConfig


class FilesConfig(AppConfig):
    """Bytes live in the default storage, facts about them in Postgres."""

    name = "files"
