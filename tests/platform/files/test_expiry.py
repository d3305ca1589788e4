"""Files whose time is over."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from common.storage import IncomingBlob
from files.models import StoredFile
from files.services import delete_expired_files
from tenants.models import AuditEvent
from tests.services import storage_root
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.model import add_model
from tests.support.rows import jsonl, line, retrieve, submit
from tests.support.worker import Worker, run_control


def upload(member: Member) -> str:
    file_id: str = member.client.upload(b"{}\n").json()["id"]
    return file_id


def let_expire(file_id: str) -> None:
    """Its time is over now."""
    key = file_id.removeprefix("file-")
    assert StoredFile.all_tenants.filter(id=key).update(expires_at=timezone.now() - timedelta(seconds=1)) == 1


def test_an_expired_file_is_gone_at_once(cast: Cast) -> None:
    file_id, other = upload(cast.alice), upload(cast.alice)
    let_expire(file_id)
    assert [entry["id"] for entry in cast.alice.client.get("/v1/files").json()["data"]] == [other]
    for answer in (
        cast.alice.client.get(f"/v1/files/{file_id}"),
        cast.alice.client.get(f"/v1/files/{file_id}/content"),
        cast.alice.client.delete(f"/v1/files/{file_id}"),
        cast.alice.client.post(
            "/v1/batches",
            {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        ),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_expired_files_of_all_tenants_are_deleted_with_their_bytes(cast: Cast) -> None:
    before = blobs()
    expired = [upload(cast.alice), upload(cast.charlie)]
    kept = upload(cast.alice)
    after_upload = blobs()
    for file_id in expired:
        let_expire(file_id)
    assert delete_expired_files() == 2
    assert len(blobs() - before) == 1
    assert blobs() < after_upload
    assert cast.alice.client.get(f"/v1/files/{kept}").status_code == 200
    events = AuditEvent.all_tenants.filter(action="file.expired").order_by("id")
    assert [(event.actor, event.subject) for event in events] == [("system", file_id) for file_id in expired]
    assert [event.organization_id for event in events] == [cast.alice.organization.id, cast.charlie.organization.id]


def test_deleting_the_expired_twice_is_the_same_as_once(cast: Cast) -> None:
    let_expire(upload(cast.alice))
    assert delete_expired_files() == 1
    assert delete_expired_files() == 0
    assert AuditEvent.all_tenants.filter(action="file.expired").count() == 1


def test_a_file_that_a_batch_holds_does_not_expire(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    batch = submit(cast.alice, jsonl([line(1)]))
    path = f"/v1/files/{batch['input_file_id']}"
    let_expire(batch["input_file_id"])
    assert delete_expired_files() == 0
    assert cast.alice.client.get(path).status_code == 200
    assert [entry["id"] for entry in cast.alice.client.get("/v1/files").json()["data"]] == [batch["input_file_id"]]
    run_control()
    Worker().answer_all()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    assert cast.alice.client.get(path).status_code == 404
    assert delete_expired_files() == 1


def test_held_files_do_not_keep_others_from_expiring(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    let_expire(submit(cast.alice, jsonl([line(1)]))["input_file_id"])
    let_expire(upload(cast.alice))
    assert delete_expired_files(limit=1) == 1


def test_a_round_deletes_so_many_and_the_next_goes_on(cast: Cast) -> None:
    for _ in range(3):
        let_expire(upload(cast.alice))
    assert [delete_expired_files(limit=2) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize(("age_hours", "is_kept"), [(23, True), (25, False)])
def test_what_a_killed_upload_left_behind_is_deleted_after_a_day(cast: Cast, age_hours: int, is_kept: bool) -> None:
    with IncomingBlob():
        left_behind = storage_root() / "incoming" / "left-behind"
        left_behind.write_bytes(b"x")
        written_at = time.time() - age_hours * 3_600
        os.utime(left_behind, (written_at, written_at))
        assert delete_expired_files() == 0
        assert left_behind.exists() == is_kept
        left_behind.unlink(missing_ok=True)
