"""Downloads, whole and in ranges."""

import hashlib
from typing import Any

import pytest

from common.storage import delete_blob
from files.models import StoredFile
from tests.support.cast import Cast
from tests.support.multipart import field, file, form, post

CONTENT = bytes(range(100))


@pytest.fixture
def path(cast: Cast) -> str:
    return f"/v1/files/{cast.alice.client.upload(CONTENT).json()['id']}/content"


def ranged(cast: Cast, path: str, header: str) -> Any:
    return cast.alice.client.get(path, headers={"Range": header})


def test_the_whole_file(cast: Cast, path: str) -> None:
    answer = cast.alice.client.get(path, headers={"Accept": "application/binary"})
    assert (answer.status_code, answer.getvalue()) == (200, CONTENT)
    assert answer["content-type"] == "application/octet-stream"
    assert answer["content-length"] == "100"
    assert answer["accept-ranges"] == "bytes"
    assert answer["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["content-disposition"] == "attachment; filename*=UTF-8''rows.jsonl"
    assert "content-range" not in answer.headers


def test_a_range(cast: Cast, path: str) -> None:
    expected = {
        "bytes=0-0": (0, 1), "bytes=0-9": (0, 10), "bytes=40-59": (40, 60), "bytes=90-": (90, 100),
        "bytes=90-99": (90, 100), "bytes=90-1000": (90, 100), "bytes=-1": (99, 100), "bytes=-10": (90, 100),
        "bytes=-1000": (0, 100), " bytes=5-6 ": (5, 7), "bytes=0-999999999999999999": (0, 100),
    }  # fmt: skip
    for header, (start, stop) in expected.items():
        answer = ranged(cast, path, header)
        assert (answer.status_code, answer.getvalue()) == (206, CONTENT[start:stop])
        assert answer["content-range"] == f"bytes {start}-{stop - 1}/100"
        assert answer["content-length"] == str(stop - start)


def test_a_range_beyond_the_end(cast: Cast, path: str) -> None:
    for header in ("bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"):
        answer = ranged(cast, path, header)
        assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range_not_satisfiable")
        assert "100 bytes" in answer.json()["error"]["message"]


def test_a_malformed_or_multiple_range_is_ignored(cast: Cast, path: str) -> None:
    headers = [
        "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes=0-1,3-4", "items=0-1", "bytes=0-1;",
        "bytes=--1", "bytes=\u0660-\u0669", "bytes=0-" + "9" * 5_000, "bytes=" + "9" * 5_000 + "-",
    ]  # fmt: skip
    answers = [ranged(cast, path, header) for header in headers]
    assert [(answer.status_code, answer.getvalue()) for answer in answers] == [(200, CONTENT)] * len(headers)


def test_a_filename_is_quoted(cast: Cast) -> None:
    uploaded = post(cast.alice, form(field("purpose", "batch"), file(b"x", filename="données; a=1.jsonl"))).json()
    answer = cast.alice.client.get(f"/v1/files/{uploaded['id']}/content")
    assert answer["content-disposition"] == "attachment; filename*=UTF-8''donn%C3%A9es%3B%20a%3D1.jsonl"
    assert answer.getvalue() == b"x"


def test_a_download_that_has_begun_survives_the_deletion(cast: Cast, path: str) -> None:
    answer = cast.alice.client.get(path)
    assert cast.alice.client.delete(path.removesuffix("/content")).json()["deleted"]
    assert answer.getvalue() == CONTENT
    assert cast.alice.client.get(path).json()["error"]["code"] == "not_found"


def test_bytes_that_the_storage_cannot_give_are_an_error_and_not_a_broken_stream(cast: Cast, path: str) -> None:
    delete_blob(StoredFile.all_tenants.get().storage_key)
    answer = cast.alice.client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert answer["x-should-retry"] == "true"
