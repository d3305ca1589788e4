"""Files over a real socket: chunked bodies, clients that go away, large files."""

import hashlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.memory import peak_bytes, reset_peak
from tests.support.multipart import CONTENT_TYPE, END, field, file, form
from tests.support.server import Server, start_server
from tests.support.tables import rows_of
from tests.support.waiting import wait_until

BATCH = field("purpose", "batch")
LARGE = 100 * 1024 * 1024


def headers(member: Member, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {member.token}", "Content-Type": CONTENT_TYPE, **more}


def request(server: Server, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request(method, path, body, **options)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def pieces(*parts: bytes) -> Iterator[bytes]:
    yield from parts


def test_an_upload_of_unknown_length(server: Server, cast: Cast) -> None:
    body = pieces(BATCH, file(b"x" * 300_000), END)
    status, uploaded = request(
        server, "POST", "/v1/files", body, headers=headers(cast.alice), encode_chunked=True
    )  # fmt: skip
    assert (status, uploaded["bytes"]) == (200, 300_000)


def test_an_upload_of_unknown_length_that_lacks_its_end(server: Server, cast: Cast) -> None:
    before = rows_of(cast.alice.organization.id), blobs()
    body = pieces(BATCH, file(b"x" * 300_000))
    status, answer = request(server, "POST", "/v1/files", body, headers=headers(cast.alice), encode_chunked=True)
    assert (status, answer["error"]["code"]) == (400, "invalid_multipart")
    assert (rows_of(cast.alice.organization.id), blobs()) == before


def test_json_of_unknown_length(server: Server, cast: Cast) -> None:
    status, answer = request(
        server, "POST", "/v1/batches", pieces(b'{"input_file', b'_id": 1, "x": 1}'), encode_chunked=True,
        headers=headers(cast.alice, **{"Content-Type": "application/json"}),
    )  # fmt: skip
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "unknown_parameter", "x")


@pytest.fixture
def half_sent(server: Server, cast: Cast) -> Iterator[socket.socket]:
    """A connection on which two thirds of an upload have been sent."""
    body = form(BATCH, file(b"x" * 300_000))
    fields = {**headers(cast.alice), "Host": "x", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(f"POST /v1/files HTTP/1.1\r\n{head}\r\n".encode() + body[:200_000])
        wait_until(lambda: any(path.startswith("incoming/") for path in blobs()))
        yield connection


def test_an_upload_that_ends_too_early_leaves_nothing(cast: Cast, half_sent: socket.socket) -> None:
    half_sent.shutdown(socket.SHUT_WR)
    with half_sent.makefile("rb") as answer:
        assert b'"code":"invalid_multipart"' in answer.read()
    assert not any(path.startswith("incoming/") for path in blobs())
    assert cast.alice.client.get("/v1/files").json()["data"] == []


def test_a_client_that_goes_away_leaves_nothing(cast: Cast, half_sent: socket.socket) -> None:
    half_sent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    half_sent.close()  # a reset, as when the machine is gone
    wait_until(lambda: not any(path.startswith("incoming/") for path in blobs()))
    assert cast.alice.client.get("/v1/files").json()["data"] == []


def test_a_large_file_takes_no_memory_up_or_down(server: Server, cast: Cast) -> None:
    (worker,) = psutil.Process(server.pid).children()
    piece = b"0123456789abcdef" * 65_536
    head, tail = BATCH + file(b"").removesuffix(b"\r\n"), b"\r\n" + END
    count = LARGE // len(piece)
    small = form(BATCH, file(b"x"))
    assert request(server, "POST", "/v1/files", small, headers=headers(cast.alice))[0] == 200
    reset_peak(worker.pid)
    before = peak_bytes(worker.pid)
    body = (part for part in (head, *[piece] * count, tail))
    length = str(len(head) + LARGE + len(tail))
    status, uploaded = request(
        server, "POST", "/v1/files", body, headers=headers(cast.alice, **{"Content-Length": length})
    )  # fmt: skip
    assert (status, uploaded["bytes"]) == (200, LARGE)
    expected = hashlib.sha256(piece * count).hexdigest()
    assert uploaded["sha256"] == expected
    assert download(server, cast.alice, uploaded["id"]) == expected
    assert peak_bytes(worker.pid) - before < 16 * 1024 * 1024


def test_a_file_over_the_limit_is_refused_while_it_arrives(cast: Cast, tmp_path: Path) -> None:
    before = rows_of(cast.alice.organization.id), blobs()
    with start_server(tmp_path, HONE_FILE_MAX_BYTES="1000") as server:
        body = form(BATCH, file(b"x" * 3_000_000))
        status, answer = request(server, "POST", "/v1/files", body, headers=headers(cast.alice))
    assert (status, answer["error"]["code"]) == (413, "file_too_large")
    assert (rows_of(cast.alice.organization.id), blobs()) == before


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/{}", "/v1/files/{}/content"])
def test_head_has_the_headers_of_get(server: Server, cast: Cast, path: str) -> None:
    file_id = cast.alice.client.upload(b"hello").json()["id"]
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    lengths = []
    for method in ("HEAD", "GET", "HEAD", "GET"):
        # On one connection: a body after HEAD would be read as the next answer.
        connection.request(method, path.format(file_id), headers=headers(cast.alice))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        lengths.append(answer.headers["Content-Length"])
    connection.close()
    assert len(set(lengths)) == 1


def download(server: Server, member: Member, file_id: str) -> str:
    """SHA-256 of the content."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    connection.request("GET", f"/v1/files/{file_id}/content", headers=headers(member))
    answer = connection.getresponse()
    digest = hashlib.file_digest(answer, "sha256").hexdigest()
    connection.close()
    return digest
