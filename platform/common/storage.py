"""Bytes in and out of the default storage: hashed while they stream, on disk before anyone relies on them."""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from uuid import UUID, uuid4

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage
from django.core.files.uploadedfile import TemporaryUploadedFile

from common.errors import HoneError

CHUNK_BYTES = 256 * 1024


class DurableFileSystemStorage(FileSystemStorage):
    """Django's storage on a disk, with the file and its folders flushed before ``save`` returns.

    A row that says "these bytes exist" is committed only after ``save``; a power cut must not prove it wrong.
    """

    def _save(self, name: str, content: "File[Any]") -> str:
        saved: str = super()._save(name, content)  # type: ignore[misc]  # the documented hook, missing in the stubs
        path, root = Path(self.path(saved)), Path(self.location)
        # Every folder on the way may be new, and is an entry of the one above.
        for target in (path, *(folder for folder in path.parents if folder.is_relative_to(root))):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return saved


class IncomingBlob:
    """Bytes on their way into the storage: kept in a temporary file, hashed, then moved to their key.

    A context manager: what is not :meth:`keep`-ed is deleted. ``param`` is what the caller knows the bytes by.
    """

    def __init__(self, *, max_bytes: int | None = None, param: str = "file") -> None:
        folder = scratch_folder()
        with storage_errors():
            self._file = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115  # closed in __exit__
        self._digest = hashlib.sha256()
        self._max_bytes = max_bytes
        self._param = param
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        if self._max_bytes is not None and self.size > self._max_bytes:
            raise HoneError("file_too_large", f"'{self._param}' exceeds {self._max_bytes} bytes", param=self._param)
        self._digest.update(data)
        with storage_errors():
            self._file.write(data)

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes so far."""
        return self._digest.hexdigest()

    def keep(self, key: str) -> None:
        """Move the bytes to ``key`` of the default storage, where nothing may stand yet."""
        with storage_errors():
            self._file.flush()
            saved = default_storage.save(key, _MovableFile(self._file))
        if saved != key:
            raise RuntimeError(f"{key} was taken; the bytes went to {saved}")

    def keep_new(self, organization_id: UUID, kind: str) -> str:
        """Move the bytes to a fresh key of an organisation; returns it."""
        key = f"{organization_id.hex}/{kind}/{uuid4().hex}"
        self.keep(key)
        return key

    def keep_addressed(self, folder: str) -> str:
        """Move the bytes to the key in ``folder`` that their digest gives them; returns it. Safe to repeat."""
        key = f"{folder}/{self.sha256}"
        with storage_errors():
            if default_storage.exists(key):
                return key
            self._file.flush()
            saved = default_storage.save(key, _MovableFile(self._file))
            if saved != key:  # somebody was faster, with the same bytes
                default_storage.delete(saved)
        return key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing flushes, which fails on a full disk; whatever happens the temporary file must go.
        try:
            with storage_errors():
                self._file.close()
        except HoneError:
            if error is None:
                raise
        finally:
            Path(self._file.name).unlink(missing_ok=True)


class _MovableFile(File):  # type: ignore[type-arg]  # not generic at run time
    """A temporary file that FileSystemStorage moves instead of copying, and that other storages read."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        super().__init__(file, name=file.name)

    temporary_file_path = TemporaryUploadedFile.temporary_file_path

    def close(self) -> None:
        """Left to :class:`IncomingBlob`."""


def scratch_folder() -> Path:
    """Where files are that are not stored yet, or never: on local disk, swept of what is a day old."""
    folder = Path(settings.STORAGE_ROOT) / "incoming"
    with storage_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def save_addressed(folder: str, data: bytes) -> str:
    """Store a small blob of the installation's own under its digest; returns the key. Safe to repeat."""
    with IncomingBlob() as blob:
        blob.write(data)
        return blob.keep_addressed(folder)


def save_new(organization_id: UUID, kind: str, data: bytes) -> str:
    """Store a small blob of an organisation; returns its key."""
    with IncomingBlob() as blob:
        blob.write(data)
        return blob.keep_new(organization_id, kind)


@contextmanager
def open_spool() -> Iterator[IO[bytes]]:
    """A scratch file on local disk, gone with the context, and with the process if that is killed."""
    folder = scratch_folder()
    with storage_errors(), tempfile.TemporaryFile(dir=folder) as spool:
        yield spool


@contextmanager
def open_blob(key: str) -> Iterator[IO[bytes]]:
    """A stored blob for reading; ``service_unavailable`` when the storage cannot give it."""
    with storage_errors():
        file = default_storage.open(key, "rb")
    with file:
        yield file


def has_blob(key: str, size: int) -> bool:
    """Whether a blob of ``size`` bytes stands at ``key``."""
    with storage_errors():
        try:
            return default_storage.size(key) == size
        except FileNotFoundError:
            return False


def delete_blob(key: str) -> None:
    """Delete a blob; one that is gone already is fine."""
    with storage_errors():
        default_storage.delete(key)


def discard_blobs(*keys: str) -> None:
    """Delete blobs that nothing refers to; one that cannot be deleted now wastes room, no more."""
    for key in keys:
        with suppress(HoneError):
            delete_blob(key)


@dataclass
class Removed:
    """Blobs that were deleted, and how many bytes they held."""

    blobs: int = 0
    bytes: int = 0


def list_folder(path: str) -> tuple[list[str], list[str]]:
    """Names of the folders and of the blobs right below ``path``; none where nothing is."""
    with storage_errors():
        try:
            folders, blobs = default_storage.listdir(path)
        except FileNotFoundError:
            return [], []
    return folders, blobs


def delete_folder(path: str) -> Removed:
    """Delete every blob below ``path``, however deep."""
    removed = Removed()
    folders, blobs = list_folder(path)
    for name in blobs:
        key = f"{path}/{name}"
        with storage_errors():
            size = default_storage.size(key)
            default_storage.delete(key)
        removed.blobs += 1
        removed.bytes += size
    for name in folders:
        below = delete_folder(f"{path}/{name}")
        removed.blobs += below.blobs
        removed.bytes += below.bytes
    return removed


class BlobRange:
    """``length`` bytes of a blob from ``start``, in chunks.

    Opened at once: a storage that is away is an error now, not a broken stream later, and a blob that is deleted
    meanwhile is still read to its end. Whoever has it must ``close`` it; Django's streaming response does.
    """

    def __init__(self, key: str, start: int, length: int) -> None:
        self._length = length
        with storage_errors():
            self._file = default_storage.open(key, "rb")
            self._file.seek(start)

    def __iter__(self) -> Iterator[bytes]:
        while self._length > 0 and (chunk := self._file.read(min(CHUNK_BYTES, self._length))):
            self._length -= len(chunk)
            yield chunk

    def close(self) -> None:
        """Let go of the blob."""
        self._file.close()


def delete_abandoned_incoming() -> None:
    """Delete what processes that were killed have left behind: temporary files that nobody has written to for a day."""
    abandoned_before = time.time() - 86_400
    with storage_errors():
        for path in scratch_folder().glob("*"):
            if path.stat().st_mtime < abandoned_before:
                path.unlink(missing_ok=True)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn the storage's OSErrors into errors a caller can be told about."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # the disk's limit, the user's, the process's
            raise HoneError("storage_full", "The file store is full; nothing was kept") from error
        raise HoneError("service_unavailable", "The file store is away; try again", retry_after=5) from error
