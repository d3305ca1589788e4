"""Bytes that a project has already: it is told, and they are kept once, for as long as any file has them."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import connections

from common.database import OWNER
from files.duplicates import find_blob
from files.models import StoredFile
from files.services import delete_expired_files
from tenants.idempotency import remember
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.model import add_model
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.tables import query
from tests.support.threads import at_once
from tests.support.uploads import begin, complete
from tests.support.waiting import wait_until
from tests.support.worker import Worker, run_control

TEXT = b'{"a": 1}\n'


def upload(member: Member, content: bytes = TEXT, **fields: str) -> Any:
    return member.client.upload(content, **fields).json()


def upload_in_parts(member: Member, content: bytes = TEXT, **fields: str) -> Any:
    upload_id, part_ids = begin(member, content[:4], content[4:], **fields)
    return complete(member, upload_id, part_ids).json()["file"]


def content(member: Member, file_id: str) -> bytes:
    found: bytes = member.client.get(f"/v1/files/{file_id}/content").getvalue()
    return found


def delete(member: Member, file_id: str) -> int:
    status: int = member.client.delete(f"/v1/files/{file_id}").status_code
    return status


def file_blobs(member: Member) -> set[str]:
    return {key for key in blobs() if key.startswith(f"{member.organization.id.hex}/files/")}


@pytest.mark.parametrize("again", [upload, upload_in_parts])
@pytest.mark.parametrize("first", [upload, upload_in_parts])
def test_a_duplicate_names_the_oldest_file_and_shares_its_bytes(cast: Cast, first: Any, again: Any) -> None:
    original = first(cast.alice)
    copies = [again(cast.alice) for _ in range(2)]
    assert original["duplicate_of"] is None
    assert [copy["duplicate_of"] for copy in copies] == [original["id"]] * 2
    assert {copy["sha256"] for copy in copies} == {original["sha256"]}
    files = [original, *copies]
    assert len({file["id"] for file in files}) == 3
    assert len(file_blobs(cast.alice)) == 1
    assert cast.alice.client.get("/v1/files?order=asc").json()["data"] == files
    assert [cast.alice.client.get(f"/v1/files/{file['id']}").json() for file in files] == files
    assert [content(cast.alice, file["id"]) for file in files] == [TEXT] * 3


def test_other_bytes_or_another_purpose_are_no_duplicate(cast: Cast) -> None:
    upload(cast.alice)
    others = [upload(cast.alice, TEXT + b" "), upload(cast.alice, purpose="evals"), upload(cast.charlie)]
    assert [other["duplicate_of"] for other in others] == [None] * 3
    assert (len(file_blobs(cast.alice)), len(file_blobs(cast.charlie))) == (3, 1)


def test_when_the_original_goes_the_next_takes_its_place(cast: Cast) -> None:
    original, second, third = (upload(cast.alice)["id"] for _ in range(3))
    assert delete(cast.alice, original) == 200
    listed = cast.alice.client.get("/v1/files?order=asc").json()["data"]
    assert [(file["id"], file["duplicate_of"]) for file in listed] == [(second, None), (third, second)]
    assert [content(cast.alice, file_id) for file_id in (second, third)] == [TEXT] * 2
    assert upload(cast.alice)["duplicate_of"] == second


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_file_to_go_takes_the_bytes_with_it(cast: Cast, order: tuple[int, ...]) -> None:
    files = [upload(cast.alice)["id"] for _ in range(3)]
    for place, number in enumerate(order):
        assert len(file_blobs(cast.alice)) == 1
        assert [content(cast.alice, files[left]) for left in order[place:]] == [TEXT] * (3 - place)
        assert delete(cast.alice, files[number]) == 200
    assert file_blobs(cast.alice) == set()
    assert {file.storage_key for file in StoredFile.all_tenants.all()} == {""}


def test_the_expiry_of_one_leaves_the_other_its_bytes(cast: Cast) -> None:
    short, long = upload(cast.alice)["id"], upload(cast.alice)["id"]
    change("UPDATE files_storedfile SET expires_at = now() - interval '1 second' WHERE id = %s", short[5:])
    assert cast.alice.client.get(f"/v1/files/{long}").json()["duplicate_of"] is None
    assert delete_expired_files() == 1
    assert content(cast.alice, long) == TEXT
    assert delete(cast.alice, long) == 200
    assert file_blobs(cast.alice) == set()


@pytest.mark.parametrize("attempt", range(3))
def test_deletions_of_all_at_once_leave_nothing(cast: Cast, attempt: int) -> None:
    files = [upload(cast.alice)["id"] for _ in range(4)]
    assert at_once(*[lambda file_id=file_id: delete(cast.alice, file_id) for file_id in files]) == [200] * 4
    assert file_blobs(cast.alice) == set()


@pytest.mark.parametrize("attempt", range(3))
def test_an_upload_and_the_deletion_of_its_original_at_once(cast: Cast, attempt: int) -> None:
    original = upload(cast.alice)["id"]
    results = at_once(
        lambda: delete(cast.alice, original),
        *[lambda: upload(cast.alice)["id"]] * 4,
        lambda: upload_in_parts(cast.alice)["id"],
    )
    assert results[0] == 200
    assert [content(cast.alice, file_id) for file_id in results[1:]] == [TEXT] * 5
    assert [delete(cast.alice, file_id) for file_id in results[1:]] == [200] * 5
    assert file_blobs(cast.alice) == set()


def test_an_original_that_goes_before_its_copy_is_there(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    original = upload(cast.alice)["id"]

    def find_then_delete(**arguments: Any) -> str | None:
        found = find_blob(**arguments)
        assert at_once(lambda: delete(cast.alice, original)) == [200]
        return found

    with monkeypatch.context() as patch:
        patch.setattr("files.services.find_blob", find_then_delete)
        copy = upload(cast.alice)
    assert copy["duplicate_of"] is None
    assert content(cast.alice, copy["id"]) == TEXT


def test_a_deletion_waits_for_a_copy_that_takes_the_bytes_over(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    original = upload(cast.alice)["id"]
    with ThreadPoolExecutor(1) as pool:
        deletions: list[Future[int]] = []

        def delete_original() -> int:
            try:
                return delete(cast.alice, original)
            finally:
                connections.close_all()

        def remember_slowly(*arguments: Any) -> None:
            deletions.append(pool.submit(delete_original))
            wait_until(lambda: query("SELECT count(*) FROM pg_locks WHERE NOT granted", using=OWNER) != [(0,)])
            remember(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr("files.services.remember", remember_slowly)
            copy = upload(cast.alice)["id"]
        assert [deletion.result(10) for deletion in deletions] == [200]
    assert content(cast.alice, copy) == TEXT
    assert len(file_blobs(cast.alice)) == 1


def test_bytes_that_the_storage_has_lost_are_stored_anew(cast: Cast) -> None:
    original = upload(cast.alice)["id"]
    default_storage.delete(StoredFile.all_tenants.get().storage_key)
    copy = upload(cast.alice)
    assert copy["duplicate_of"] == original
    assert content(cast.alice, copy["id"]) == TEXT


def test_a_batch_reads_its_input_although_the_file_it_shares_it_with_goes(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    text = jsonl([line(1), line(2)])
    original = upload(cast.alice, text)["id"]
    batch = submit(cast.alice, text)
    assert cast.alice.client.get(f"/v1/files/{batch['input_file_id']}").json()["duplicate_of"] == original
    run_control()
    assert delete(cast.alice, original) == 200
    assert Worker().answer_all() > 0
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "completed"
    assert [entry["custom_id"] for entry in read_file(cast.alice, done["output_file_id"])] == ["row-1", "row-2"]


def test_results_are_never_shared(cast: Cast) -> None:
    upload(cast.alice)
    change("UPDATE files_storedfile SET purpose = 'batch_output'")
    assert upload(cast.alice)["duplicate_of"] is None
    assert len(file_blobs(cast.alice)) == 2
