"""Files through the unmodified ``openai`` SDK, strict, against a real server."""

from pathlib import Path

import openai
import pytest

from tenants.services import create_api_key
from tests.support.cast import Cast
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server
from tests.support.waiting import wait_until

CONTENT = b'{"a": 1}\n' * 1_000


def test_a_file_from_upload_to_deletion(server: Server, cast: Cast, tmp_path: Path) -> None:
    path = tmp_path / "données.jsonl"
    path.write_bytes(CONTENT)
    with sdk(server, cast.alice) as client:
        made = client.files.create(file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7_200})
        assert (made.object, made.bytes, made.filename, made.purpose, made.status) == (
            "file", len(CONTENT), "données.jsonl", "batch", "processed",
        )  # fmt: skip
        assert made.expires_at == made.created_at + 7_200
        assert client.files.retrieve(made.id) == made
        assert client.files.wait_for_processing(made.id) == made
        assert client.files.content(made.id).read() == CONTENT
        with client.files.with_streaming_response.content(made.id) as stream:
            assert b"".join(stream.iter_bytes()) == CONTENT
        deleted = client.files.delete(made.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "file", True)
        assert list(client.files.list()) == []


def test_a_list_turns_its_own_pages(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        made = [client.files.create(file=(f"{number}.jsonl", b"{}"), purpose="user_data").id for number in range(5)]
        client.files.create(file=b"{}", purpose="batch")
        pages = list(client.files.list(limit=2, order="asc", purpose="user_data").iter_pages())
        assert [[file.id for file in page.data] for page in pages] == [made[:2], made[2:4], made[4:]]
        assert [file.id for file in client.files.list(limit=1, purpose="user_data")] == made[::-1]


async def test_the_same_for_asyncio(server: Server, cast: Cast) -> None:
    async with async_sdk(server, cast.alice) as client:
        made = [(await client.files.create(file=CONTENT, purpose="user_data")).id for _ in range(3)]
        assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
        assert (await client.files.retrieve(made[0])).id == made[0]
        assert (await client.files.content(made[0])).content == CONTENT
        assert (await client.files.delete(made[0])).deleted
        with pytest.raises(openai.NotFoundError) as caught:
            await client.files.retrieve(made[0])
        assert (caught.value.code, caught.value.param) == ("not_found", "id")


def test_a_response_names_its_request(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        answer = client.files.with_raw_response.list(extra_headers={"X-Client-Request-Id": "mine-1"})
        assert answer.request_id
        assert answer.headers["openai-organization"] == cast.alice.organization.wire_id
        assert int(answer.headers["content-length"]) == len(answer.content)
        wait_until(lambda: str(answer.request_id) in server.log())
        assert '"client_request_id": "mine-1"' in server.log()


def check(error: openai.APIStatusError, status: int, code: str, param: str | None) -> None:
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type == "invalid_request_error"
    assert error.request_id
    assert error.request_id.startswith("req_")


def test_errors_have_their_class_and_code(server: Server, cast: Cast) -> None:
    narrow = create_api_key(
        project=cast.alice.project, name="k", actor="system", scopes=frozenset({"files.read"})
    ).token
    with sdk(server, cast.alice) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.files.content("file-0199f2c400007000800000000000000a")
        check(missing.value, 404, "not_found", "id")
        with pytest.raises(openai.BadRequestError) as bad:
            client.files.create(file=b"x", purpose="nonsense")  # type: ignore[arg-type]  # that is the test
        check(bad.value, 400, "invalid_purpose", "purpose")
        with pytest.raises(openai.BadRequestError) as empty:
            client.files.create(file=("empty.jsonl", b""), purpose="batch")
        check(empty.value, 400, "empty_file", "file")
    with (
        sdk(server, cast.alice, api_key=f"{cast.alice.token}0") as client,
        pytest.raises(openai.AuthenticationError) as unknown,
    ):
        client.files.create(file=CONTENT * 500, purpose="batch")
    check(unknown.value, 401, "invalid_api_key", None)
    with sdk(server, cast.alice, api_key=narrow) as client, pytest.raises(openai.PermissionDeniedError) as denied:
        client.files.create(file=CONTENT, purpose="batch")
    check(denied.value, 403, "insufficient_scope", None)
    assert "'files.write'" in denied.value.message
    with (
        sdk(server, cast.alice, project=cast.charlie.project.wire_id) as client,
        pytest.raises(openai.AuthenticationError) as mismatch,
    ):
        client.files.list()
    check(mismatch.value, 401, "organization_mismatch", None)


def test_headers_of_the_sdk_that_agree(server: Server, cast: Cast) -> None:
    names = {"organization": cast.alice.organization.wire_id, "project": cast.alice.project.wire_id}
    with sdk(server, cast.alice, **names) as client:
        assert list(client.files.list()) == []
