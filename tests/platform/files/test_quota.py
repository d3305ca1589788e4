"""A project stores so much and no more, whoever comes at the same time."""

from typing import Any

import pytest
from pytest_django import Settings

from common.storage import IncomingBlob
from files.models import StoredFile
from files.services import NewFile, add_file, delete_expired_files
from files.uploads import close_uploads
from tenants.scope import tenant_scope
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.facts import change, count
from tests.support.multipart import field, file, form, post
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.uploads import announce, begin, cancel, complete, send


def state(member: Member) -> Any:
    return rows_of(member.organization.id), blobs()


def refusal(answer: Any) -> str:
    """The message of a refusal for the quota."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"], error["param"]) == (
        403, "storage_quota_exceeded", "insufficient_quota", None,
    )  # fmt: skip
    message: str = error["message"]
    return message


def upload(member: Member, size: int) -> Any:
    return member.client.upload(b"x" * size)


def upload_in_parts(member: Member, size: int) -> Any:
    return announce(member, size)


@pytest.mark.parametrize("one_more", [upload, upload_in_parts])
def test_a_project_stores_so_many_bytes(cast: Cast, settings: Settings, one_more: Any) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 100
    small, large = upload(cast.alice, 20).json()["id"], upload(cast.alice, 70).json()["id"]
    before = state(cast.alice)
    message = refusal(one_more(cast.alice, 11))
    assert "100 bytes; this one stores 90, uploads have announced 0, and 11 more are needed" in message
    assert message.endswith(f". Delete files that you no longer need, such as {large} (70 bytes), {small} (20 bytes)")
    assert state(cast.alice) == before
    assert one_more(cast.alice, 10).status_code == 200
    assert upload(cast.charlie, 100).status_code == 200


@pytest.mark.parametrize("one_more", [upload, upload_in_parts])
def test_a_project_holds_so_many_files(cast: Cast, settings: Settings, one_more: Any) -> None:
    settings.PROJECT_MAX_FILES = 3
    files = [upload(cast.alice, size).json()["id"] for size in (1, 2)]
    announce(cast.alice, 3)
    before = state(cast.alice)
    message = refusal(one_more(cast.alice, 1))
    assert "3 files; this one holds 2, and 1 uploads are under way" in message
    assert message.endswith(f"such as {files[0]} (1 bytes), {files[1]} (2 bytes); complete or cancel uploads")
    assert state(cast.alice) == before
    assert upload(cast.charlie, 1).status_code == 200


def test_what_goes_makes_room(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 10
    file_id = upload(cast.alice, 10).json()["id"]
    refusal(upload(cast.alice, 1))
    cast.alice.client.delete(f"/v1/files/{file_id}")
    upload_id = announce(cast.alice, 10).json()["id"]
    refusal(upload(cast.alice, 1))
    cancel(cast.alice, upload_id)
    announce(cast.alice, 10)
    refusal(upload(cast.alice, 1))
    change("UPDATE files_upload SET expires_at = now() - interval '1 second'")
    close_uploads()
    assert upload(cast.alice, 10).status_code == 200
    change("UPDATE files_storedfile SET expires_at = now() - interval '1 second'")
    refusal(upload(cast.alice, 1))
    assert delete_expired_files() == 1
    assert upload(cast.alice, 10).status_code == 200


def test_an_upload_that_was_announced_has_its_room(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES, settings.PROJECT_MAX_FILES = 10, 1
    upload_id, part_ids = begin(cast.alice, b"x" * 4, b"y" * 6)
    refusal(upload(cast.alice, 1))
    assert complete(cast.alice, upload_id, part_ids).status_code == 200
    refusal(upload(cast.alice, 1))


def test_parts_beyond_what_was_announced_need_room_of_their_own(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 20
    upload_id, part_ids = begin(cast.alice, b"x" * 4, b"y" * 6)
    assert send(cast.alice, upload_id, b"z" * 6).status_code == 200
    before = state(cast.alice)
    assert "announced 16, and 5 more" in refusal(send(cast.alice, upload_id, b"w" * 5))
    assert "announced 16, and 5 more" in refusal(upload(cast.alice, 5))
    assert state(cast.alice) == before
    assert send(cast.alice, upload_id, b"z" * 6).status_code == 200  # there already
    assert complete(cast.alice, upload_id, part_ids).status_code == 200
    assert upload(cast.alice, 10).status_code == 200


def test_a_file_that_a_job_holds_is_not_named(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 10
    file_id = upload(cast.alice, 10).json()["id"]
    cast.alice.client.post(
        "/v1/batches",
        {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )
    message = refusal(upload(cast.alice, 1))
    assert file_id not in message
    assert message.endswith(". No file can be deleted now")


def test_results_are_stored_whatever_the_quota_says_and_count(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES, settings.PROJECT_MAX_FILES = 10, 1
    upload(cast.alice, 10)
    with IncomingBlob() as blob:
        blob.write(b"x" * 90)
        key = blob.keep_new(cast.alice.organization.id, "files")
        with tenant_scope(cast.alice.organization.id):
            new = NewFile(filename="output.jsonl", purpose=StoredFile.Purpose.BATCH_OUTPUT)
            produced = add_file(
                project=cast.alice.project, blob=blob, key=key, new=new, actor="system", created_by=None
            )  # fmt: skip
    settings.PROJECT_MAX_STORED_BYTES, settings.PROJECT_MAX_FILES = 100, 3
    message = refusal(upload(cast.alice, 1))
    assert "this one stores 100," in message
    assert f"such as {produced.wire_id} (90 bytes)," in message
    settings.PROJECT_MAX_STORED_BYTES, settings.PROJECT_MAX_FILES = 1_000, 2
    assert "holds 2" in refusal(upload(cast.alice, 1))


def test_the_requests_of_a_batch_are_a_file_like_any_other(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_FILES = 0
    before = state(cast.alice)
    body = {"requests": [{"body": {}}], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    refusal(cast.alice.client.post("/v1/batches", body))
    assert state(cast.alice) == before


def test_a_repetition_needs_no_room(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_FILES = 2
    body, key = form(field("purpose", "batch"), file(b"{}\n")), {"Idempotency-Key": "k"}
    first = post(cast.alice, body, headers=key).json()
    announced = announce(cast.alice, 5, headers=key).json()
    assert post(cast.alice, body, headers=key).json() == first
    assert announce(cast.alice, 5, headers=key).json() == announced


def test_of_twenty_uploads_at_once_three_find_room(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 350
    before = len(blobs())
    statuses = at_once(*[lambda number=number: cast.alice.client.upload(bytes([number]) * 100).status_code
                         for number in range(20)])  # fmt: skip
    assert sorted(statuses) == [200] * 3 + [403] * 17
    assert (count("files_storedfile"), len(blobs()) - before) == (3, 3)


def test_of_twenty_files_and_announcements_at_once_three_find_a_place(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_FILES = 3
    statuses = at_once(
        *[lambda: upload(cast.alice, 10).status_code] * 10, *[lambda: announce(cast.alice, 10).status_code] * 10
    )
    assert sorted(statuses) == [200] * 3 + [403] * 17
    assert count("files_storedfile") + count("files_upload") == 3


def test_completions_and_uploads_at_once_never_exceed_the_quota(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 100
    begun = [begin(cast.alice, bytes([number]) * 20) for number in range(4)]
    statuses = at_once(
        *[lambda ids=ids: complete(cast.alice, *ids).status_code for ids in begun],
        *[lambda number=number: cast.alice.client.upload(bytes([100 + number]) * 20).status_code
          for number in range(6)],
    )  # fmt: skip
    assert statuses[:4] == [200] * 4
    assert sorted(statuses[4:]) == [200] + [403] * 5
    assert count("files_storedfile") == 5


def test_parts_at_once_never_exceed_the_quota(cast: Cast, settings: Settings) -> None:
    settings.PROJECT_MAX_STORED_BYTES = 100
    uploads = [announce(cast.alice, 20).json()["id"] for _ in range(2)]
    for upload_id in uploads:
        assert send(cast.alice, upload_id, b"x" * 20).status_code == 200
    statuses = at_once(
        *[
            lambda upload_id=upload_id, number=number: send(cast.alice, upload_id, bytes([number]) * 20).status_code
            for number in range(5)
            for upload_id in uploads
        ]
    )
    assert sorted(statuses) == [200] * 3 + [403] * 7
