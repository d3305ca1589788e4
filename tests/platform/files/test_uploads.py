"""Uploads in parts: what becomes of them, and what is refused without a trace."""

import errno
import hashlib
from typing import Any

import pytest
from django.core.files.storage import default_storage
from pytest_django import Settings

from common.ids import uuid7
from files import uploads
from files.models import Upload, UploadPart
from files.tasks import close_old_uploads
from files.uploads import close_uploads
from tenants.models import AuditEvent
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.facts import change, count
from tests.support.multipart import CONTENT_TYPE, field, file, form
from tests.support.tables import rows_of
from tests.support.uploads import announce, begin, cancel, complete, send

PARTS = [b"first,", b"second,", b"third"]
WHOLE = b"".join(PARTS)
RETRY = {"x-stainless-retry-count": "1"}


def content(member: Member, file_id: str) -> bytes:
    found: bytes = member.client.get(f"/v1/files/{file_id}/content").getvalue()
    return found


def state(member: Member) -> Any:
    return rows_of(member.organization.id), blobs()


def error(answer: Any) -> tuple[int, str, str | None]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


def let_time_pass(interval: str = "61 minutes") -> None:
    """As if all uploads had been announced so much earlier."""
    change(f"UPDATE files_upload SET created_at = created_at - interval '{interval}', "
           f"expires_at = expires_at - interval '{interval}'")  # fmt: skip


def test_parts_become_one_file(cast: Cast) -> None:
    before = blobs()
    announced = announce(cast.alice, len(WHOLE)).json()
    assert announced == {
        "id": announced["id"],
        "object": "upload",
        "bytes": len(WHOLE),
        "created_at": announced["created_at"],
        "expires_at": announced["created_at"] + 3_600,
        "filename": "rows.jsonl",
        "purpose": "batch",
        "status": "pending",
        "file": None,
    }
    parts = [send(cast.alice, announced["id"], part).json() for part in PARTS]
    assert parts[0] == {
        "id": parts[0]["id"],
        "object": "upload.part",
        "created_at": parts[0]["created_at"],
        "upload_id": announced["id"],
    }
    completed = complete(cast.alice, announced["id"], [part["id"] for part in parts]).json()
    assert completed == {**announced, "status": "completed", "file": completed["file"]}
    assert completed["file"] == cast.alice.client.get(f"/v1/files/{completed['file']['id']}").json()
    assert completed["file"]["bytes"] == len(WHOLE)
    assert completed["file"]["filename"] == "rows.jsonl"
    assert completed["file"]["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert completed["file"]["expires_at"] == completed["file"]["created_at"] + 30 * 86_400
    assert content(cast.alice, completed["file"]["id"]) == WHOLE
    close_old_uploads()
    assert UploadPart.all_tenants.count() == 0
    assert len(blobs() - before) == 1


def test_the_order_is_the_one_of_the_completion(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS[::-1])
    completed = complete(cast.alice, upload_id, part_ids[::-1]).json()
    assert content(cast.alice, completed["file"]["id"]) == WHOLE


def test_a_part_that_is_sent_again_is_the_same_part(cast: Cast) -> None:
    upload_id = announce(cast.alice, len(WHOLE)).json()["id"]
    first = [send(cast.alice, upload_id, part).json() for part in PARTS]
    before = blobs()
    again = [send(cast.alice, upload_id, part, headers=headers).json() for headers in ({}, RETRY) for part in PARTS]
    assert again == first * 2
    assert blobs() == before
    assert UploadPart.all_tenants.count() == 3
    completed = complete(cast.alice, upload_id, [part["id"] for part in first]).json()
    assert content(cast.alice, completed["file"]["id"]) == WHOLE


def test_a_part_may_stand_in_the_file_more_than_once(cast: Cast) -> None:
    upload_id = announce(cast.alice, 6).json()["id"]
    part_ids = [send(cast.alice, upload_id, part).json()["id"] for part in (b"ab", b"cd", b"ab")]
    assert part_ids[0] == part_ids[2]
    assert content(cast.alice, complete(cast.alice, upload_id, part_ids).json()["file"]["id"]) == b"abcdab"


def test_a_part_that_is_not_named_is_left_out(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    wrong = send(cast.alice, upload_id, b"sEcond,").json()["id"]
    assert content(cast.alice, complete(cast.alice, upload_id, part_ids).json()["file"]["id"]) == WHOLE
    assert wrong not in part_ids
    close_uploads()
    assert UploadPart.all_tenants.count() == 0


@pytest.mark.parametrize("purpose", ["batch", "fine-tune", "evals", "user_data", "assistants", "vision"])
def test_every_purpose_that_can_be_uploaded(cast: Cast, purpose: str) -> None:
    upload_id, part_ids = begin(cast.alice, b"x", purpose=purpose)
    made = complete(cast.alice, upload_id, part_ids).json()["file"]
    assert (made["purpose"], made["expires_at"] is not None) == (purpose, purpose == "batch")


def test_a_file_expires_when_its_upload_said_so(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, b"x", expires_after={"anchor": "created_at", "seconds": 7_200})
    made = complete(cast.alice, upload_id, part_ids).json()["file"]
    assert made["expires_at"] == made["created_at"] + 7_200


def test_the_checksum_decides(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    right = hashlib.md5(WHOLE).hexdigest()
    before = state(cast.alice)
    for wrong in (hashlib.md5(b"").hexdigest(), hashlib.md5(b"".join(PARTS[::-1])).hexdigest()):
        assert error(complete(cast.alice, upload_id, part_ids, md5=wrong)) == (400, "checksum_mismatch", "md5")
    for malformed in ("", "x" * 32, right[1:], f"{right}0"):
        assert error(complete(cast.alice, upload_id, part_ids, md5=malformed)) == (400, "invalid_value", "md5")
    assert state(cast.alice) == before
    assert complete(cast.alice, upload_id, part_ids, md5=right.upper()).json()["status"] == "completed"
    assert complete(cast.alice, upload_id, part_ids, md5=right).json()["status"] == "completed"
    wrong = complete(cast.alice, upload_id, part_ids, md5="0" * 32)
    assert error(wrong) == (400, "checksum_mismatch", "md5")


@pytest.mark.parametrize("size", [len(WHOLE) - 1, len(WHOLE) + 1])
def test_the_parts_must_hold_what_was_announced(cast: Cast, size: int) -> None:
    upload_id = announce(cast.alice, size).json()["id"]
    part_ids = [send(cast.alice, upload_id, part).json()["id"] for part in PARTS]
    before = state(cast.alice)
    answer = complete(cast.alice, upload_id, part_ids)
    assert error(answer) == (400, "invalid_value", "part_ids")
    assert f"{len(WHOLE)} bytes together, and {size}" in answer.json()["error"]["message"]
    assert state(cast.alice) == before


def test_a_completion_without_its_parts(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    _, others = begin(cast.alice, b"of another upload")
    before = state(cast.alice)
    wrong: dict[str, list[Any]] = {
        "invalid_type": ["part", None, [*part_ids, None]],
        "invalid_value": [[], ["x" * 65], [part_ids] * 2],
    }
    for code, bodies in wrong.items():
        for body in bodies:
            status, found, param = error(complete(cast.alice, upload_id, body))
            assert (status, found, (param or "").split(".")[0]) == (400, code, "part_ids")
    missing = cast.alice.client.post(f"/v1/uploads/{upload_id}/complete", {})
    assert error(missing) == (400, "missing_required_parameter", "part_ids")
    for unknown in (f"part_{uuid7().hex}", "part_", upload_id, others[0], part_ids[0].upper()):
        answer = complete(cast.alice, upload_id, [*part_ids, unknown])
        assert error(answer) == (404, "not_found", "part_ids")
        assert unknown in answer.json()["error"]["message"]
    assert state(cast.alice) == before


def test_a_file_that_may_not_be_is_refused_when_it_is_announced(cast: Cast, settings: Settings) -> None:
    settings.BATCH_INPUT_MAX_BYTES, settings.FILE_MAX_BYTES = 100, 200
    assert [announce(cast.alice, 100).status_code, announce(cast.alice, 200, purpose="evals").status_code] == [200] * 2
    before = state(cast.alice)
    for size, purpose in ((101, "batch"), (201, "evals"), (10**18, "evals")):
        assert error(announce(cast.alice, size, purpose=purpose)) == (413, "file_too_large", "bytes")
    assert error(announce(cast.alice, 0)) == (400, "empty_file", "bytes")
    assert state(cast.alice) == before


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"bytes": -1}, "invalid_value", "bytes"),
        ({"bytes": "many"}, "invalid_value", "bytes"),
        ({"bytes": None}, "invalid_type", "bytes"),
        ({"purpose": "batch_output"}, "invalid_purpose", "purpose"),
        ({"purpose": "nonsense"}, "invalid_purpose", "purpose"),
        ({"filename": ""}, "invalid_value", "filename"),
        ({"filename": "folder/"}, "invalid_value", "filename"),
        ({"filename": "a" * 256}, "invalid_value", "filename"),
        ({"mime_type": None}, "invalid_type", "mime_type"),
        ({"md5": "0" * 32}, "unknown_parameter", "md5"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3_599}}, "invalid_value", "expires_after.seconds"),
        ({"expires_after": {"anchor": "last_used", "seconds": 3_600}}, "invalid_value", "expires_after.anchor"),
    ],
)
def test_an_announcement_that_is_refused(cast: Cast, fields: dict[str, Any], code: str, param: str) -> None:
    before = state(cast.alice)
    assert error(announce(cast.alice, **{"size": 1, **_sized(fields)})) == (400, code, param)
    assert state(cast.alice) == before


def _sized(fields: dict[str, Any]) -> dict[str, Any]:
    return {"size" if name == "bytes" else name: value for name, value in fields.items()}


@pytest.mark.parametrize("name", ["bytes", "filename", "mime_type", "purpose"])
def test_an_announcement_that_lacks_something(cast: Cast, name: str) -> None:
    body = {"bytes": 1, "filename": "a", "mime_type": "text/plain", "purpose": "evals"}
    del body[name]
    assert error(cast.alice.client.post("/v1/uploads", body)) == (400, "missing_required_parameter", name)


def test_of_a_filename_the_last_part_is_kept(cast: Cast) -> None:
    assert announce(cast.alice, 1, filename="../../etc/données.jsonl").json()["filename"] == "données.jsonl"


def test_a_part_that_is_refused(cast: Cast, settings: Settings) -> None:
    settings.UPLOAD_PART_MAX_BYTES = 10
    upload_id, _ = begin(cast.alice, b"x" * 10, b"yz")
    path = f"/v1/uploads/{upload_id}/parts"
    before = state(cast.alice)

    def post(body: bytes, content_type: str = CONTENT_TYPE) -> tuple[int, str, str | None]:
        return error(cast.alice.client.call("POST", path, data=body, content_type=content_type))

    part = file(b"x", name="data")
    assert error(send(cast.alice, upload_id, b"x" * 11)) == (413, "file_too_large", "data")
    assert error(send(cast.alice, upload_id, b"")) == (400, "empty_file", "data")
    assert post(form(file(b"x"))) == (400, "missing_required_parameter", "data")
    assert post(form(part, field("number", "1"))) == (400, "unknown_parameter", "number")
    assert post(form(part, part)) == (400, "invalid_multipart", None)
    assert post(form(part)[:-10]) == (400, "invalid_multipart", None)
    assert post(b"x", "application/octet-stream") == (415, "unsupported_media_type", None)
    assert state(cast.alice) == before


def test_a_part_larger_than_the_whole_is_refused_at_once(cast: Cast) -> None:
    upload_id = announce(cast.alice, 3).json()["id"]
    before = state(cast.alice)
    assert error(send(cast.alice, upload_id, b"four")) == (400, "invalid_value", "data")
    assert state(cast.alice) == before


def test_an_upload_has_so_many_parts_and_no_more(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_PARTS", 3)
    upload_id, part_ids = begin(cast.alice, *PARTS)
    before = state(cast.alice)
    answer = send(cast.alice, upload_id, b"fourth")
    assert error(answer) == (409, "conflict", "id")
    assert answer["x-should-retry"] == "false"
    assert state(cast.alice) == before
    assert complete(cast.alice, upload_id, part_ids).status_code == 200


def test_a_cancelled_upload_takes_and_makes_nothing(cast: Cast) -> None:
    before = blobs()
    upload_id, part_ids = begin(cast.alice, *PARTS)
    cancelled = cancel(cast.alice, upload_id).json()
    assert (cancelled["id"], cancelled["status"], cancelled["file"]) == (upload_id, "cancelled", None)
    rows = state(cast.alice)
    assert cancel(cast.alice, upload_id).json() == cancelled
    for answer in (complete(cast.alice, upload_id, part_ids), send(cast.alice, upload_id, b"more")):
        assert error(answer) == (409, "conflict", "id")
        assert answer["x-should-retry"] == "false"
        assert "cancelled" in answer.json()["error"]["message"]
    assert state(cast.alice) == rows
    close_uploads()
    assert blobs() == before
    assert cast.alice.client.get("/v1/files").json()["data"] == []


def test_a_completed_upload_stays_as_it_is(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    completed = complete(cast.alice, upload_id, part_ids).json()
    for _ in range(2):  # with its parts, and without
        rows = count("files_storedfile"), count("files_uploadpart")
        assert complete(cast.alice, upload_id, part_ids).json() == completed
        assert complete(cast.alice, upload_id, part_ids, headers=RETRY).json() == completed
        for answer in (
            complete(cast.alice, upload_id, part_ids[::-1]),
            cancel(cast.alice, upload_id),
            send(cast.alice, upload_id, b"more"),
        ):
            assert error(answer)[:2] == (409, "conflict")
        assert (count("files_storedfile"), count("files_uploadpart")) == rows
        close_uploads()
    assert content(cast.alice, completed["file"]["id"]) == WHOLE


def test_a_repetition_shows_the_file_as_it_was_although_it_has_been_deleted(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    completed = complete(cast.alice, upload_id, part_ids).json()
    assert cast.alice.client.delete(f"/v1/files/{completed['file']['id']}").status_code == 200
    assert complete(cast.alice, upload_id, part_ids, headers=RETRY).json() == completed
    assert cast.alice.client.get("/v1/files").json()["data"] == []


def test_an_upload_expires_after_an_hour(cast: Cast) -> None:
    before = blobs()
    upload_id, part_ids = begin(cast.alice, *PARTS)
    let_time_pass("59 minutes 50 seconds")
    close_uploads()
    assert send(cast.alice, upload_id, b"in time").status_code == 200
    let_time_pass("11 seconds")
    rows = state(cast.alice)
    for _ in range(2):  # whether it has been ended yet or not
        for answer in (
            send(cast.alice, upload_id, b"too late"),
            complete(cast.alice, upload_id, part_ids),
            cancel(cast.alice, upload_id),
        ):
            assert error(answer) == (409, "conflict", "id")
            assert "expired" in answer.json()["error"]["message"]
        assert state(cast.alice) == rows
        close_uploads()
        rows = state(cast.alice)
    assert blobs() == before
    (event,) = AuditEvent.all_tenants.filter(action="upload.expired")
    assert (event.actor, event.subject) == ("system", upload_id)


def test_uploads_of_all_tenants_expire_once_and_others_go_on(cast: Cast) -> None:
    expired = [begin(member, b"x")[0] for member in (cast.alice, cast.charlie)]
    let_time_pass()
    upload_id, part_ids = begin(cast.alice, b"y")
    close_uploads()
    close_uploads()
    events = AuditEvent.all_tenants.filter(action="upload.expired").order_by("id")
    assert [event.subject for event in events] == expired
    assert complete(cast.alice, upload_id, part_ids).status_code == 200


def test_an_upload_is_forgotten_a_day_after_it_could_be_asked_for(cast: Cast) -> None:
    ended = [begin(cast.alice, *PARTS) for _ in range(2)]
    made = complete(cast.alice, *ended[0]).json()["file"]["id"]
    cancel(cast.alice, ended[1][0])
    let_time_pass("24 hours 59 minutes")
    close_uploads()
    assert Upload.all_tenants.count() == 2
    let_time_pass("2 minutes")
    close_uploads()
    assert Upload.all_tenants.count() == 0
    assert content(cast.alice, made) == WHOLE
    assert error(complete(cast.alice, *ended[0])) == (404, "not_found", "id")


def test_parts_that_could_not_be_deleted_are_tried_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(errno.EIO, "input/output error")

    before = blobs()
    cancel(cast.alice, begin(cast.alice, *PARTS)[0])
    let_time_pass("26 hours")
    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "delete", refuse)
        close_uploads()
    assert (UploadPart.all_tenants.count(), Upload.all_tenants.count()) == (3, 1)
    close_uploads()
    assert (UploadPart.all_tenants.count(), Upload.all_tenants.count(), blobs()) == (0, 0, before)


def test_every_step_is_in_the_audit_trail(cast: Cast) -> None:
    upload_id, part_ids = begin(cast.alice, b"x")
    completed = complete(cast.alice, upload_id, part_ids).json()
    cancel(cast.alice, begin(cast.alice, b"y")[0])
    events = AuditEvent.all_tenants.filter(organization_id=cast.alice.organization.id, action__startswith="upload.")
    assert [event.action for event in events.order_by("id")] == [
        "upload.created", "upload.part_added", "upload.completed",
        "upload.created", "upload.part_added", "upload.cancelled",
    ]  # fmt: skip
    (event,) = events.filter(action="upload.completed")
    assert (event.subject, event.details) == (upload_id, {"file": completed["file"]["id"]})
    assert event.actor.startswith("key_")


def test_a_store_that_is_away_leaves_an_upload_as_it_was(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "from the storage")

    upload_id, part_ids = begin(cast.alice, *PARTS)
    before = state(cast.alice)
    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "save", fail)
        for answer in (complete(cast.alice, upload_id, part_ids), send(cast.alice, upload_id, b"more")):
            assert error(answer) == (503, "service_unavailable", None)
        patch.setattr(default_storage, "open", fail)
        assert error(complete(cast.alice, upload_id, part_ids)) == (503, "service_unavailable", None)
    assert state(cast.alice) == before
    completed = complete(cast.alice, upload_id, part_ids).json()
    assert content(cast.alice, completed["file"]["id"]) == WHOLE
