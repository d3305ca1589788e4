"""A store that is full or away: a clear answer, and nothing kept."""

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage

from common.storage import IncomingBlob
from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.tables import rows_of

FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]


def fail_with(number: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "from the storage")

    return fail


def check_refused(cast: Cast, status: int, code: str, *, should_retry: str) -> None:
    before = rows_of(cast.alice.organization.id), blobs()
    answer = cast.alice.client.upload(b"x" * 300_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer["x-should-retry"] == should_retry
    assert b"from the storage" not in answer.content
    assert (rows_of(cast.alice.organization.id), blobs()) == before


@pytest.mark.parametrize("number", FULL)
def test_a_store_that_is_full_at_the_end(cast: Cast, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(default_storage, "save", fail_with(number))
    check_refused(cast, 507, "storage_full", should_retry="false")


class FullDisk:
    """A file that takes a little and then no more; closing it fails, too, as flushing does on a full disk."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room
        self.name = file.name

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, "from the storage")
        return int(self._file.write(data))

    def close(self) -> None:
        self._file.close()
        raise OSError(errno.ENOSPC, "from the storage")


@pytest.mark.parametrize("room", [0, 270_000])
def test_a_disk_that_fills_up_on_the_way(cast: Cast, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    real = tempfile.NamedTemporaryFile
    monkeypatch.setattr("common.storage.tempfile.NamedTemporaryFile", lambda **options: FullDisk(real(**options), room))
    check_refused(cast, 507, "storage_full", should_retry="false")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_store_that_is_away(cast: Cast, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(default_storage, "save", fail_with(number))
    check_refused(cast, 503, "service_unavailable", should_retry="true")


def test_a_store_whose_folder_cannot_be_made(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    cast.alice.client.upload(b"x")
    monkeypatch.setattr(Path, "mkdir", fail_with(errno.EROFS))
    check_refused(cast, 503, "service_unavailable", should_retry="true")


def test_a_store_that_is_away_while_reading(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = cast.alice.client.upload(b"x").json()["id"]
    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "open", fail_with(errno.EIO))
        answer = cast.alice.client.get(f"/v1/files/{file_id}/content")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
        assert answer["retry-after"] == "5"
    assert cast.alice.client.get(f"/v1/files/{file_id}/content").getvalue() == b"x"


def test_bytes_are_on_the_disk_with_every_new_folder_before_the_row_is(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    monkeypatch.setattr("common.storage.os.fsync", lambda number: flushed.append(_path_of(number)))
    before = blobs()
    cast.alice.client.upload(b"x")
    (key,) = blobs() - before
    root = Path(default_storage.path(""))
    assert flushed == [str(path) for path in (root / key, *(root / key).parents) if path.is_relative_to(root)]


def test_a_key_that_is_taken_is_never_overwritten(cast: Cast) -> None:
    with IncomingBlob() as first:
        first.write(b"first")
        key = first.keep_new(cast.alice.organization.id, "files")
    with IncomingBlob() as second:
        second.write(b"second")
        with pytest.raises(RuntimeError, match="was taken"):
            second.keep(key)
    with default_storage.open(key) as stored:
        assert stored.read() == b"first"


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
