"""Uploads: what is kept, and what is refused without a trace."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from tests.support import multipart
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.multipart import field, file, form, post
from tests.support.tables import rows_of

BATCH = field("purpose", "batch")
GOOD = form(BATCH, file(b'{"a": 1}\n'))
MISSING_PURPOSE = "Missing required parameter: 'purpose'."


def refused(member: Member, body: bytes, **options: Any) -> dict[str, Any]:
    """The error of an upload that left neither row nor blob, as ``status`` and the four members."""
    before = rows_of(member.organization.id), blobs()
    answer = post(member, body, **options)
    assert (rows_of(member.organization.id), blobs()) == before
    return {"status": answer.status_code, **answer.json()["error"]}


def test_an_upload_is_stored_with_its_digest(cast: Cast) -> None:
    content = b'{"a": 1}\n'
    before = int(timezone.now().timestamp())
    answer = cast.alice.client.upload(content)
    assert answer.status_code == 200
    uploaded = answer.json()
    assert before <= uploaded["created_at"] <= before + 60
    assert uploaded == {
        "id": uploaded["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": uploaded["created_at"],
        "expires_at": uploaded["created_at"] + 30 * 86_400,
        "filename": "rows.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
        "sha256": hashlib.sha256(content).hexdigest(),
        "duplicate_of": None,
    }
    assert cast.alice.client.get(f"/v1/files/{uploaded['id']}").json() == uploaded


def test_bytes_lie_in_the_storage_once_and_below_their_organisation(cast: Cast) -> None:
    before = blobs()
    cast.alice.client.upload(b"{}\n")
    (new,) = blobs() - before
    assert new.split("/")[:2] == [cast.alice.organization.id.hex, "files"]


@pytest.mark.parametrize("size", [1, 262_143, 262_144, 262_145, 700_000])
def test_bytes_arrive_as_they_were_sent(cast: Cast, size: int) -> None:
    content = (b"\r\n--boundary-of-the-test\r\n--\0\xff" * (size // 30 + 1))[:size]
    uploaded = cast.alice.client.upload(content).json()
    assert (uploaded["bytes"], uploaded["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    assert cast.alice.client.get(f"/v1/files/{uploaded['id']}/content").getvalue() == content


@pytest.mark.parametrize("purpose", ["batch", "fine-tune", "evals", "user_data", "assistants", "vision"])
def test_every_purpose_that_can_be_uploaded(cast: Cast, purpose: str) -> None:
    uploaded = cast.alice.client.upload(b"{}\n", purpose=purpose).json()
    assert uploaded["purpose"] == purpose
    assert (uploaded["expires_at"] is not None) == (purpose == "batch")


@pytest.mark.parametrize("purpose", ["", "Batch", "batch_output", "fine-tune-results", "nonsense", "batch\0"])
def test_a_purpose_that_cannot_be_uploaded(cast: Cast, purpose: str) -> None:
    error = refused(cast.alice, form(field("purpose", purpose), file(b"x")))
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_purpose", "purpose")
    assert "assistants, batch, evals, fine-tune, user_data, vision" in error["message"]


def test_a_missing_purpose(cast: Cast) -> None:
    error = refused(cast.alice, form(file(b"x")))
    assert (error["status"], error["code"], error["param"], error["message"]) == (
        400, "missing_required_parameter", "purpose", MISSING_PURPOSE,
    )  # fmt: skip


def test_a_missing_file(cast: Cast) -> None:
    error = refused(cast.alice, form(BATCH))
    assert (error["status"], error["code"], error["param"]) == (400, "missing_required_parameter", "file")


def test_an_empty_file(cast: Cast) -> None:
    error = refused(cast.alice, form(BATCH, file(b"")))
    assert (error["status"], error["code"], error["param"]) == (400, "empty_file", "file")


def test_an_unknown_field(cast: Cast) -> None:
    error = refused(cast.alice, form(BATCH, field("purposes", "batch"), file(b"x")))
    assert (error["status"], error["code"], error["param"]) == (400, "unknown_parameter", "purposes")


def test_two_files(cast: Cast) -> None:
    error = refused(cast.alice, form(BATCH, file(b"x"), file(b"y")))
    assert (error["status"], error["code"]) == (400, "invalid_multipart")


def test_fields_may_come_after_the_file(cast: Cast) -> None:
    assert post(cast.alice, form(file(b"x"), BATCH)).json()["purpose"] == "batch"


def test_text_around_the_parts_is_ignored(cast: Cast) -> None:
    assert post(cast.alice, b"preamble\r\n" + GOOD + b"epilogue").status_code == 200


def test_a_body_that_was_cut_off(cast: Cast) -> None:
    cuts = range(1, len(GOOD) - 4, 17)
    errors = {kept: refused(cast.alice, GOOD[:kept]) for kept in cuts}
    assert {kept: (error["status"], error["code"]) for kept, error in errors.items()} == dict.fromkeys(
        cuts, (400, "invalid_multipart")
    )


def test_a_malformed_body(cast: Cast) -> None:
    bodies = [
        b"no multipart at all", GOOD.replace(b"boundary", b"other"), GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b'name="purpose"', b'nome="purpose"'), GOOD.replace(b"batch", b"\xff"),
        GOOD.replace(b"form-data", b"attachment"), GOOD.replace(b"Content-Disposition", b"Content Disposition"),
    ]  # fmt: skip
    errors = [refused(cast.alice, body) for body in bodies]
    assert [(error["status"], error["code"]) for error in errors] == [(400, "invalid_multipart")] * len(bodies)
    nothing = refused(cast.alice, multipart.END)
    assert (nothing["code"], nothing["param"]) == ("missing_required_parameter", "file")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x"]
)
def test_multipart_without_a_boundary(cast: Cast, content_type: str) -> None:
    error = refused(cast.alice, GOOD, content_type=content_type)
    assert (error["status"], error["code"]) == (400, "invalid_multipart")


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/plain", ""])
def test_a_body_that_is_not_multipart(cast: Cast, content_type: str) -> None:
    error = refused(cast.alice, GOOD, content_type=content_type)
    assert (error["status"], error["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "parts",
    [
        [BATCH, field("x", "y" * 70_000), file(b"x")],
        [BATCH, *[field(f"x{number}", "y") for number in range(70)], file(b"x")],
        [BATCH, b"--" + multipart.BOUNDARY.encode() + b"\r\nContent-Disposition: " + b"x" * 9_000 + b"\r\n\r\n\r\n"],
    ],
    ids=["a long field", "many fields", "a long header"],
)
def test_a_form_that_is_too_large(cast: Cast, parts: list[bytes]) -> None:
    error = refused(cast.alice, form(*parts))
    assert (error["status"], error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("rows.jsonl", "rows.jsonl"), ("../../etc/passwd", "passwd"), ("C:\\\\data\\\\rows.jsonl", "rows.jsonl"),
        ("données 数据 🎉.jsonl", "données 数据 🎉.jsonl"), ("a" * 255, "a" * 255), (".hidden", ".hidden"),
        ("50%25.txt", "50%25.txt"), ("a;b=c'd.txt", "a;b=c'd.txt"),
    ],
)  # fmt: skip
def test_of_a_filename_the_last_part_is_kept(cast: Cast, sent: str, kept: str) -> None:
    uploaded = post(cast.alice, form(BATCH, file(b"x", filename=sent))).json()
    assert uploaded["filename"] == kept
    assert cast.alice.client.get("/v1/files").json()["data"][0]["filename"] == kept


@pytest.mark.parametrize("filename", ["a" * 256, "a\0b", "a\tb", "folder/", "a\x1b[31mb", "a\u202eb"])
def test_a_filename_that_is_refused(cast: Cast, filename: str) -> None:
    error = refused(cast.alice, form(BATCH, file(b"x", filename=filename)))
    assert error["status"] == 400
    assert error["code"] in ("invalid_value", "invalid_multipart")


@pytest.mark.parametrize(("purpose", "limit"), [("batch", 100), ("fine-tune", 200)])
def test_a_file_may_be_as_large_as_its_purpose_allows(cast: Cast, settings: Settings, purpose: str, limit: int) -> None:
    settings.BATCH_INPUT_MAX_BYTES, settings.FILE_MAX_BYTES = 100, 200
    assert cast.alice.client.upload(b"x" * limit, purpose=purpose).json()["bytes"] == limit
    error = refused(cast.alice, form(field("purpose", purpose), file(b"x" * (limit + 1))))
    assert (error["status"], error["code"], error["param"]) == (413, "file_too_large", "file")
    assert f" {limit} bytes" in error["message"]


@pytest.mark.parametrize("seconds", [3_600, 2_592_000])
def test_a_file_expires_when_it_was_told_to(cast: Cast, seconds: int) -> None:
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}
    for purpose in ("batch", "evals"):
        uploaded = cast.alice.client.upload(b"x", purpose=purpose, **expiry).json()
        assert uploaded["expires_at"] - uploaded["created_at"] == timedelta(seconds=seconds).total_seconds()


@pytest.mark.parametrize(
    "seconds", ["", "3599", "2592001", "-3600", "3600.0", "1e4", " 3600", "\u0663600", "9" * 5_000]
)
def test_seconds_out_of_bounds(cast: Cast, seconds: str) -> None:
    fields = [field("expires_after[anchor]", "created_at"), field("expires_after[seconds]", seconds)]
    error = refused(cast.alice, form(BATCH, *fields, file(b"x")))
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_value", "expires_after[seconds]")


@pytest.mark.parametrize(
    "fields", [[("seconds", "3600")], [("anchor", "last_used"), ("seconds", "3600")], [("anchor", "")]]
)
def test_an_expiry_without_its_anchor(cast: Cast, fields: list[tuple[str, str]]) -> None:
    parts = [field(f"expires_after[{name}]", value) for name, value in fields]
    error = refused(cast.alice, form(BATCH, *parts, file(b"x")))
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_value", "expires_after[anchor]")


def test_an_expiry_without_seconds(cast: Cast) -> None:
    error = refused(cast.alice, form(BATCH, field("expires_after[anchor]", "created_at"), file(b"x")))
    assert (error["status"], error["code"], error["param"]) == (400, "invalid_value", "expires_after[seconds]")
