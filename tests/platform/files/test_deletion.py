"""Deletion never breaks a job, and happens once."""

from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage

from files.models import FileUse, StoredFile
from files.services import delete_expired_files
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.model import add_model
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.worker import Worker, run_control


@pytest.fixture
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")


def create_batch(member: Member, file_id: str) -> Any:
    return member.client.post(
        "/v1/batches",
        {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    )


def test_a_deleted_file_is_gone_with_its_bytes(cast: Cast) -> None:
    before = blobs()
    path = f"/v1/files/{cast.alice.client.upload(b'{}').json()['id']}"
    answer = cast.alice.client.delete(path)
    assert (answer.status_code, answer.json()) == (200, {"id": path[10:], "object": "file", "deleted": True})
    assert blobs() == before
    for gone in (cast.alice.client.get(path), cast.alice.client.get(f"{path}/content"), cast.alice.client.delete(path)):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert cast.alice.client.get("/v1/files").json()["data"] == []
    assert create_batch(cast.alice, path[10:]).json()["error"]["param"] == "input_file_id"


def test_a_file_that_a_batch_uses_is_kept(cast: Cast, model: None) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    before = rows_of(cast.alice.organization.id), blobs()
    answer = cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}")
    assert answer.status_code == 409
    assert answer["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "file_in_use"
    assert batch["id"] in answer.json()["error"]["message"]
    assert (rows_of(cast.alice.organization.id), blobs()) == before
    run_control()
    assert Worker().answer_all() == 1
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"


def test_an_input_can_be_deleted_after_the_end_and_the_results_stay(cast: Cast, model: None) -> None:
    batch = submit(cast.alice, jsonl([line(1), {"custom_id": "bad"}]), on_invalid="skip")
    run_control()
    Worker().answer_all()
    run_control()
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["input_file_id"]) == ("completed", batch["input_file_id"])
    assert [entry["custom_id"] for entry in read_file(cast.alice, done["output_file_id"])] == ["row-1"]
    assert [entry["custom_id"] for entry in read_file(cast.alice, done["error_file_id"])] == ["bad"]
    for name in ("output_file_id", "error_file_id"):
        assert cast.alice.client.delete(f"/v1/files/{done[name]}").status_code == 200
    assert retrieve(cast.alice, batch)["status"] == "completed"


@pytest.mark.parametrize("attempt", range(3))
def test_of_two_deletions_at_once_one_finds_nothing(cast: Cast, attempt: int) -> None:
    before = blobs()
    path = f"/v1/files/{cast.alice.client.upload(b'{}').json()['id']}"
    answers = at_once(*[lambda: cast.alice.client.delete(path).status_code] * 2)
    assert sorted(answers) == [200, 404]
    assert blobs() == before
    actions = [row for row in rows_of(cast.alice.organization.id)["tenants_auditevent"] if "file.deleted" in row]
    assert len(actions) == 1


@pytest.mark.parametrize("attempt", range(3))
def test_of_a_deletion_and_a_new_batch_at_once_exactly_one_wins(cast: Cast, model: None, attempt: int) -> None:
    file_id = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    statuses = at_once(
        lambda: cast.alice.client.delete(f"/v1/files/{file_id}").status_code,
        lambda: create_batch(cast.alice, file_id).status_code,
    )
    assert statuses in ([200, 404], [409, 200])
    batches = len(cast.alice.client.get("/v1/batches").json()["data"])
    is_there = cast.alice.client.get(f"/v1/files/{file_id}").status_code == 200
    assert (batches, is_there, FileUse.all_tenants.count()) == {200: (0, False, 0), 409: (1, True, 1)}[statuses[0]]


def test_bytes_that_could_not_be_deleted_are_tried_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    before = blobs()
    file_id = cast.alice.client.upload(b"{}").json()["id"]

    def refuse(name: str) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "delete", refuse)
        assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
        assert delete_expired_files() == 0
    assert cast.alice.client.get(f"/v1/files/{file_id}").status_code == 404
    assert len(blobs() - before) == 1
    assert delete_expired_files() == 0
    assert blobs() == before
    assert StoredFile.all_tenants.get().storage_key == ""


def test_bytes_that_are_gone_already_are_fine(cast: Cast) -> None:
    file_id = cast.alice.client.upload(b"{}").json()["id"]
    default_storage.delete(StoredFile.all_tenants.get().storage_key)
    assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
    assert StoredFile.all_tenants.get().storage_key == ""
