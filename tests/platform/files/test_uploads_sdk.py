"""Uploads through the unmodified ``openai`` SDK, strict, against a real server."""

import asyncio
import hashlib
import http.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import psutil
import pytest

from files.uploads import close_uploads
from tests.support.cast import Cast
from tests.support.facts import count
from tests.support.memory import peak_bytes, reset_peak
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server

MIB = 1024 * 1024
CONTENT = b"".join(f'{{"number": {number}}}\n'.encode() for number in range(30_000))
PIECES = [CONTENT[start : start + 65_536] for start in range(0, len(CONTENT), 65_536)]


def test_an_upload_from_announcement_to_file(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        upload = client.uploads.create(
            bytes=len(CONTENT), filename="données.jsonl", mime_type="application/jsonl", purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 7_200},
        )  # fmt: skip
        assert (upload.object, upload.status, upload.file, upload.bytes) == ("upload", "pending", None, len(CONTENT))
        assert upload.expires_at == upload.created_at + 3_600
        parts = [client.uploads.parts.create(upload.id, data=piece) for piece in PIECES]
        assert {(part.object, part.upload_id) for part in parts} == {("upload.part", upload.id)}
        done = client.uploads.complete(
            upload.id, part_ids=[part.id for part in parts], md5=hashlib.md5(CONTENT).hexdigest()
        )
        assert (done.id, done.status, done.filename) == (upload.id, "completed", "données.jsonl")
        assert done.file is not None
        assert done.file == client.files.retrieve(done.file.id)
        assert done.file.expires_at == done.file.created_at + 7_200
        assert client.files.content(done.file.id).read() == CONTENT


@pytest.mark.parametrize("part_size", [50_000, len(CONTENT), None])
def test_a_file_is_cut_and_uploaded_in_one_call(
    server: Server, cast: Cast, tmp_path: Path, part_size: int | None
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)
    with sdk(server, cast.alice) as client:
        done = client.uploads.upload_file_chunked(
            file=path, mime_type="application/jsonl", purpose="batch", part_size=part_size,
            md5=hashlib.md5(CONTENT).hexdigest(),
        )  # fmt: skip
        assert done.file is not None
        assert (done.status, done.file.filename, done.file.purpose) == ("completed", "rows.jsonl", "batch")
        assert client.files.content(done.file.id).read() == CONTENT


async def test_the_same_for_asyncio(server: Server, cast: Cast) -> None:
    async with async_sdk(server, cast.alice) as client:
        whole = await client.uploads.upload_file_chunked(
            file=CONTENT, filename="rows.jsonl", bytes=len(CONTENT), mime_type="text/plain", purpose="user_data",
            part_size=100_000,
        )  # fmt: skip
        assert whole.file is not None
        assert (await client.files.content(whole.file.id)).content == CONTENT
        upload = await client.uploads.create(
            bytes=len(CONTENT), filename="rows.jsonl", mime_type="text/plain", purpose="user_data"
        )
        parts = await asyncio.gather(
            *[client.uploads.parts.create(upload.id, data=piece) for piece in PIECES[::-1]]
        )  # fmt: skip
        done = await client.uploads.complete(upload.id, part_ids=[part.id for part in parts[::-1]])
        assert done.file is not None
        assert (await client.files.content(done.file.id)).content == CONTENT
        other = await client.uploads.create(bytes=1, filename="x", mime_type="text/plain", purpose="evals")
        assert (await client.uploads.cancel(other.id)).status == "cancelled"
        with pytest.raises(openai.ConflictError) as caught:
            await client.uploads.parts.create(other.id, data=b"x")
        assert (caught.value.code, caught.value.param) == ("conflict", "id")


def test_parts_of_many_threads_in_reverse(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client, ThreadPoolExecutor(6) as pool:
        upload = client.uploads.create(
            bytes=len(CONTENT), filename="rows.jsonl", mime_type="text/plain", purpose="user_data"
        )
        part_ids = list(pool.map(lambda piece: client.uploads.parts.create(upload.id, data=piece).id, PIECES[::-1]))
        done = client.uploads.complete(upload.id, part_ids=part_ids[::-1])
        assert done.file is not None
        assert client.files.content(done.file.id).read() == CONTENT


class LosesAnswers(httpx2.HTTPTransport):
    """A network on which the answer to every first try is lost, after the server has done its work."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        if request.headers["x-stainless-retry-count"] == "0":
            response.read()
            raise httpx2.ReadTimeout("lost", request=request)
        return response


def test_the_retries_of_the_sdk_make_nothing_twice(server: Server, cast: Cast) -> None:
    with (
        httpx2.Client(transport=LosesAnswers()) as http_client,
        sdk(server, cast.alice, http_client=http_client, max_retries=1) as client,
    ):
        done = client.uploads.upload_file_chunked(
            file=CONTENT, filename="rows.jsonl", bytes=len(CONTENT), mime_type="text/plain", purpose="batch",
            part_size=len(CONTENT) // 2,
        )  # fmt: skip
        assert done.status == "completed"
    assert [count(table) for table in ("files_upload", "files_uploadpart", "files_storedfile")] == [1, 2, 1]


def test_an_upload_goes_on_after_a_lost_connection(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        upload = client.uploads.create(
            bytes=len(CONTENT), filename="rows.jsonl", mime_type="text/plain", purpose="batch"
        )
        part_ids = [client.uploads.parts.create(upload.id, data=piece).id for piece in PIECES[:3]]
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    headers = {"Authorization": f"Bearer {cast.alice.token}", "Content-Type": "multipart/form-data; boundary=b"}
    connection.putrequest("POST", f"/v1/uploads/{upload.id}/parts")
    for name, value in {**headers, "Content-Length": "65700"}.items():
        connection.putheader(name, value)
    connection.endheaders(b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\n' + PIECES[3][:999])
    connection.close()
    with sdk(server, cast.alice) as client:  # another process: it knows the upload and the order of the parts
        again = [client.uploads.parts.create(upload.id, data=piece).id for piece in PIECES]
        assert again[:3] == part_ids
        done = client.uploads.complete(upload.id, part_ids=again)
        assert done.file is not None
        assert client.files.content(done.file.id).read() == CONTENT
    assert count("files_uploadpart") == len(PIECES)


def test_errors_have_their_class_and_code(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.uploads.parts.create("upload_0199f2c400007000800000000000000a", data=b"x" * MIB)
        assert (missing.value.code, missing.value.param) == ("not_found", "id")
        with pytest.raises(openai.APIStatusError) as large:
            client.uploads.create(bytes=10**12, filename="x", mime_type="text/plain", purpose="batch")
        assert (large.value.status_code, large.value.code, large.value.param) == (413, "file_too_large", "bytes")
        upload = client.uploads.create(bytes=2, filename="x", mime_type="text/plain", purpose="batch")
        part = client.uploads.parts.create(upload.id, data=b"ab")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.uploads.complete(upload.id, part_ids=[part.id], md5="0" * 32)
        assert (wrong.value.code, wrong.value.param) == ("checksum_mismatch", "md5")


def test_200_megabytes_in_parts_take_no_memory(server: Server, cast: Cast, tmp_path: Path) -> None:
    (worker,) = psutil.Process(server.pid).children()
    path = tmp_path / "large.bin"
    block = hashlib.sha256(b"seed").digest() * 32_768
    with path.open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(8) + block[8:])
    with sdk(server, cast.alice, timeout=120) as client:
        small = client.uploads.upload_file_chunked(
            file=b"x", filename="x", bytes=1, mime_type="text/plain", purpose="user_data"
        )
        assert small.status == "completed"
        reset_peak(worker.pid)
        before = peak_bytes(worker.pid)
        done = client.uploads.upload_file_chunked(file=path, mime_type="text/plain", purpose="user_data")
        assert peak_bytes(worker.pid) - before < 16 * MIB
        assert done.file is not None
        assert done.file.bytes == 200 * MIB
        digest = hashlib.sha256()
        with client.files.with_streaming_response.content(done.file.id) as stream:
            for chunk in stream.iter_bytes():
                digest.update(chunk)
    with path.open("rb") as file:
        assert digest.hexdigest() == hashlib.file_digest(file, "sha256").hexdigest()
    assert count("files_uploadpart") == 5  # the small one's, three of 64 MB, and the rest
    close_uploads()
    assert count("files_uploadpart") == 0
