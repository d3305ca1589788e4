"""Scratch files on local disk."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from django.conf import settings

from common.storage import storage_errors


@contextmanager
def open_spool() -> Iterator[IO[bytes]]:
    """Gone with the context, and with the process if that is killed; a full disk is ``storage_full``."""
    folder = Path(settings.STORAGE_ROOT) / "incoming"
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as spool:
            yield spool
