"""Bytes that do not last: scratch files on local disk, and blobs that turned out not to be wanted."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from django.conf import settings

from common.errors import HoneError
from common.storage import delete_blob, storage_errors


@contextmanager
def open_spool() -> Iterator[IO[bytes]]:
    """Gone with the context, and with the process if that is killed; a full disk is ``storage_full``."""
    folder = Path(settings.STORAGE_ROOT) / "incoming"
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as spool:
            yield spool


def discard_blobs(*keys: str) -> None:
    """Delete blobs that nothing refers to; one that cannot be deleted now wastes room, no more."""
    for key in keys:
        with suppress(HoneError):
            delete_blob(key)
