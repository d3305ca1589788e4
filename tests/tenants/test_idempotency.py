"""A create that is sent again makes nothing new; one that is meant twice is done twice."""

import errno
import logging
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.core.files.storage import default_storage
from pytest_django import Settings

from common.storage import IncomingBlob
from tenants.idempotency import forget_old_requests
from tenants.models import IdempotencyRecord
from tenants.services import create_api_key
from tenants.tasks import forget_old
from tests.support.blobs import blobs
from tests.support.cast import ApiClient, Cast, Member
from tests.support.facts import change, count
from tests.support.model import add_model
from tests.support.multipart import BOUNDARY, field, file, form, post
from tests.support.rows import jsonl, line
from tests.support.sdk import sdk
from tests.support.server import Server
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.worker import run_control

UPLOAD = form(field("purpose", "batch"), file(jsonl([line(1)])))
RETRY = {"x-stainless-retry-count": "1"}
FIRST = {"x-stainless-retry-count": "0"}


def named(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def upload(member: Member, headers: dict[str, str] | None = None, body: bytes = UPLOAD) -> Any:
    return post(member, body, headers=headers or {})


def batch(client: ApiClient, file_id: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    return client.post("/v1/batches", body, headers=headers or {})


def state(member: Member) -> tuple[Any, set[str]]:
    """All that the database and the storage hold."""
    return rows_of(member.organization.id), blobs()


def made() -> tuple[int, int, int]:
    """Files, batches, and the leases of their validations."""
    return count("files_storedfile"), count("batches_batch"), count("fleet_lease")


def test_a_retry_after_a_lost_answer_gets_the_same_object(cast: Cast) -> None:
    uploaded = upload(cast.alice, FIRST).json()
    created = batch(cast.alice.client, uploaded["id"], FIRST, metadata={"a": "1", "b": "2"}).json()
    before = state(cast.alice)
    assert upload(cast.alice, RETRY).json() == uploaded
    again = batch(
        cast.alice.client, uploaded["id"], {"x-stainless-retry-count": "2"}, metadata={"b": "2", "a": "1"}
    ).json()
    assert again == created
    assert state(cast.alice) == before


def test_a_repetition_shows_the_object_as_it_is_now(cast: Cast) -> None:
    file_id = upload(cast.alice).json()["id"]
    created = batch(cast.alice.client, file_id, named("k")).json()
    cast.alice.client.post(f"/v1/batches/{created['id']}/cancel")
    again = batch(cast.alice.client, file_id, named("k")).json()
    assert (created["status"], again["status"]) == ("validating", "cancelling")
    assert again == cast.alice.client.get(f"/v1/batches/{created['id']}").json()


def test_a_deliberate_second_create_makes_a_second_object(cast: Cast) -> None:
    ids = {upload(cast.alice, headers).json()["id"] for headers in ({}, FIRST, {}, FIRST)}
    file_id = min(ids)
    batches = {batch(cast.alice.client, file_id, headers).json()["id"] for headers in ({}, FIRST)}
    assert (len(ids), len(batches), made()) == (4, 2, (4, 2, 2))


@pytest.mark.parametrize("retries", ["", "0", "-1", "one", "1.5", "\u0661", "1" * 5_000])
def test_what_does_not_count_retries_is_no_retry(cast: Cast, retries: str) -> None:
    headers = {"x-stainless-retry-count": retries}
    assert upload(cast.alice, headers).json()["id"] != upload(cast.alice, headers).json()["id"]


def test_the_last_of_several_equal_creates_is_the_one_that_is_retried(cast: Cast) -> None:
    _, last = upload(cast.alice).json()["id"], upload(cast.alice).json()["id"]
    assert upload(cast.alice, RETRY).json()["id"] == last


def test_a_retry_of_something_else_is_done(cast: Cast) -> None:
    file_id = upload(cast.alice).json()["id"]
    others = [
        UPLOAD.replace(b"Question 1?", b"Question 2?"), UPLOAD.replace(b"rows.jsonl", b"more.jsonl"),
        UPLOAD.replace(b"\r\nbatch\r\n", b"\r\nevals\r\n"),
    ]  # fmt: skip
    ids = {upload(cast.alice, RETRY, body).json()["id"] for body in others} | {file_id}
    assert len(ids) == 4
    fields: list[dict[str, Any]] = [{}, {"metadata": {"a": "1"}}, {"on_invalid": "skip"}]
    assert len({batch(cast.alice.client, file_id, RETRY, **extra).json()["id"] for extra in fields}) == 3


def test_a_retry_with_another_boundary_is_recognised(cast: Cast) -> None:
    file_id = upload(cast.alice).json()["id"]
    body = UPLOAD.replace(BOUNDARY.encode(), b"another")
    answer = post(cast.alice, body, content_type="multipart/form-data; boundary=another", headers=RETRY)
    assert (answer.json()["id"], made()) == (file_id, (1, 0, 0))


def test_a_retry_later_than_ten_minutes_is_done(cast: Cast) -> None:
    file_id = upload(cast.alice).json()["id"]
    change("UPDATE tenants_idempotencyrecord SET created_at = now() - interval '9 minutes 50 seconds'")
    assert upload(cast.alice, RETRY).json()["id"] == file_id
    change("UPDATE tenants_idempotencyrecord SET created_at = now() - interval '10 minutes 1 second'")
    assert upload(cast.alice, RETRY).json()["id"] != file_id


def test_a_key_stands_for_one_object_whatever_the_count_of_retries_says(cast: Cast) -> None:
    file_id = upload(cast.alice, named("k")).json()["id"]
    created = batch(cast.alice.client, file_id, named("k")).json()["id"]  # on another route it is another request
    before = state(cast.alice)
    for headers in (named("k"), {**named("k"), **FIRST}, {**named("k"), **RETRY}):
        assert upload(cast.alice, headers).json()["id"] == file_id
        assert batch(cast.alice.client, file_id, headers).json()["id"] == created
    assert state(cast.alice) == before


def test_another_key_is_another_request(cast: Cast) -> None:
    assert len({upload(cast.alice, named(key)).json()["id"] for key in ("k", "K", "k" * 255)}) == 3
    upload(cast.alice, RETRY)  # what has no key is compared with what had none
    assert count("files_storedfile") == 4


def test_a_key_that_was_sent_with_other_fields_is_refused(cast: Cast) -> None:
    file_id = upload(cast.alice, named("k")).json()["id"]
    batch(cast.alice.client, file_id, named("k"))
    before = state(cast.alice)
    for answer in (
        upload(cast.alice, named("k"), UPLOAD.replace(b"Question", b"Demand")),
        batch(cast.alice.client, file_id, named("k"), metadata={"a": "1"}),
        batch(cast.alice.client, file_id, {**named("k"), **RETRY}, on_invalid="skip"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            {
                "message": "This Idempotency-Key was sent with other parameters before; "
                "use a new key for a new request",
                "type": "invalid_request_error",
                "param": "Idempotency-Key",
                "code": "idempotency_key_reused",
            },
        )
    assert state(cast.alice) == before


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "clé", "\x7f"])
def test_a_malformed_key_is_refused(cast: Cast, key: str) -> None:
    file_id = upload(cast.alice).json()["id"]
    before = state(cast.alice)
    for answer in (upload(cast.alice, named(key)), batch(cast.alice.client, file_id, named(key))):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "Idempotency-Key")
    assert state(cast.alice) == before


def test_keys_and_tenants_do_not_share_what_they_repeat(cast: Cast) -> None:
    second = ApiClient(create_api_key(project=cast.alice.project, name="second", actor="system").token)
    file_id = upload(cast.alice, named("k")).json()["id"]
    assert upload(cast.charlie, named("k")).json()["id"] != file_id
    assert upload(cast.charlie, RETRY).json()["id"] != file_id
    mine = batch(cast.alice.client, file_id, named("k")).json()["id"]
    theirs = batch(second, file_id, named("k")).json()["id"]
    retried = batch(second, file_id, RETRY).json()["id"]
    assert len({mine, theirs, retried}) == 3
    assert batch(cast.alice.client, file_id, named("k")).json()["id"] == mine


def test_twenty_tries_at_once_with_one_key_make_one_object(cast: Cast) -> None:
    before = len(blobs())
    files = at_once(*[lambda: upload(cast.alice, named("k")).json()["id"]] * 20)
    assert (len(set(files)), made(), len(blobs()) - before) == (1, (1, 0, 0), 1)
    batches = at_once(*[lambda: batch(cast.alice.client, files[0], named("k")).json()["id"]] * 20)
    assert (len(set(batches)), made()) == (1, (1, 1, 1))
    assert IdempotencyRecord.all_tenants.count() == 2


def test_retries_at_once_make_one_object_and_deliberate_creates_one_each(cast: Cast) -> None:
    file_id = upload(cast.alice).json()["id"]
    retried = at_once(*[lambda: batch(cast.alice.client, file_id, RETRY).json()["id"]] * 8)
    assert (len(set(retried)), made()) == (1, (1, 1, 1))
    meant = at_once(*[lambda: batch(cast.alice.client, file_id, FIRST, metadata={"a": "1"}).json()["id"]] * 8)
    assert (len(set(meant)), made()) == (8, (1, 9, 9))


def test_a_first_try_that_its_retry_has_overtaken_makes_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = IncomingBlob.keep_new
    retried = []

    def keep_slowly(blob: IncomingBlob, organization_id: Any, kind: str) -> str:
        monkeypatch.setattr(IncomingBlob, "keep_new", keep)
        retried.extend(at_once(lambda: upload(cast.alice, RETRY).json()["id"]))
        return keep(blob, organization_id, kind)

    before = len(blobs())
    monkeypatch.setattr(IncomingBlob, "keep_new", keep_slowly)
    assert [upload(cast.alice, FIRST).json()["id"]] == retried
    assert (made(), len(blobs()) - before) == ((1, 0, 0), 1)
    assert upload(cast.alice, FIRST).json()["id"] not in retried


def test_a_try_that_was_refused_is_done_again_for_real(cast: Cast, settings: Settings) -> None:
    headers = {**named("k"), **RETRY}
    before = state(cast.alice)
    settings.BATCH_INPUT_MAX_BYTES = 10
    assert upload(cast.alice, headers).status_code == 413
    assert batch(cast.alice.client, f"file-{'0' * 32}", headers).status_code == 404
    assert state(cast.alice) == before
    settings.BATCH_INPUT_MAX_BYTES = 10_000
    uploaded = upload(cast.alice, headers)
    created = batch(cast.alice.client, uploaded.json()["id"], headers)
    assert (uploaded.status_code, created.status_code, made()) == (200, 200, (1, 1, 1))


@pytest.mark.parametrize("headers", [named("k"), RETRY], ids=["key", "retry"])
def test_a_try_that_found_the_store_full_is_done_again_for_real(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = state(cast.alice)
    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "save", fail)
        assert upload(cast.alice, headers).status_code == 507
    assert state(cast.alice) == before
    assert upload(cast.alice, headers).status_code == 200
    assert made() == (1, 0, 0)


def test_a_try_that_was_killed_between_blob_and_row_is_done_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise KilledError

    before = rows_of(cast.alice.organization.id)
    with monkeypatch.context() as patch:
        patch.setattr("files.services.remember", die)
        with pytest.raises(KilledError):
            upload(cast.alice, named("k"))
    assert rows_of(cast.alice.organization.id) == before
    file_id = upload(cast.alice, named("k")).json()["id"]
    assert upload(cast.alice, named("k")).json()["id"] == file_id
    assert cast.alice.client.get(f"/v1/files/{file_id}/content").getvalue() == jsonl([line(1)])
    assert made() == (1, 0, 0)


def test_a_repetition_does_not_bring_back_what_has_been_deleted(cast: Cast) -> None:
    uploaded = upload(cast.alice, named("k")).json()
    cast.alice.client.delete(f"/v1/files/{uploaded['id']}")
    before = state(cast.alice)
    assert upload(cast.alice, named("k")).json() == uploaded
    assert upload(cast.alice, {**named("k"), **RETRY}).json() == uploaded
    assert cast.alice.client.get(f"/v1/files/{uploaded['id']}").status_code == 404
    assert state(cast.alice) == before
    change("DELETE FROM files_storedfile")
    before = state(cast.alice)
    answer = upload(cast.alice, named("k"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert state(cast.alice) == before


def test_a_batch_is_recognised_although_its_input_has_gone(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    file_id = upload(cast.alice).json()["id"]
    created = batch(cast.alice.client, file_id, named("k")).json()["id"]
    cast.alice.client.post(f"/v1/batches/{created}/cancel")
    run_control()
    assert cast.alice.client.delete(f"/v1/files/{file_id}").status_code == 200
    assert batch(cast.alice.client, file_id, named("k")).json()["id"] == created
    assert batch(cast.alice.client, file_id).status_code == 404


def test_a_key_is_forgotten_after_a_day_and_not_before(cast: Cast) -> None:
    file_id = upload(cast.alice, named("k")).json()["id"]
    upload(cast.charlie)
    change("UPDATE tenants_idempotencyrecord SET created_at = now() - interval '23 hours 59 minutes'")
    forget_old()
    assert upload(cast.alice, named("k")).json()["id"] == file_id
    change("UPDATE tenants_idempotencyrecord SET created_at = now() - interval '24 hours 1 second'")
    forget_old()
    assert count("tenants_idempotencyrecord") == 0
    assert upload(cast.alice, named("k")).json()["id"] != file_id


def test_old_records_are_deleted_some_at_a_time_until_none_is_left(cast: Cast) -> None:
    for _ in range(5):
        upload(cast.alice)
    change("UPDATE tenants_idempotencyrecord SET created_at = now() - interval '2 days'")
    upload(cast.alice)
    assert [forget_old_requests(limit=2), count("tenants_idempotencyrecord"), forget_old_requests(limit=2)] == [5, 1, 0]


def test_a_key_that_holds_a_secret_is_stored_nowhere(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [upload(cast.alice, named(cast.alice.token)), upload(cast.alice, named(cast.alice.token), UPLOAD + b" ")]
    answers.append(upload(cast.alice, named(cast.alice.token), UPLOAD.replace(b"Question", b"Demand")))
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    secret = cast.alice.token.rpartition("_")[2]
    kept = [str(rows_of(cast.alice.organization.id)), caplog.text, *[str(answer.content) for answer in answers]]
    assert [secret in text for text in kept] == [False] * 5


class LosesAnswers(httpx2.HTTPTransport):
    """A network on which the answer to every first try is lost, after the server has done its work."""

    def __init__(self) -> None:
        super().__init__()
        self.tries: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.tries.append(request.headers["x-stainless-retry-count"])
        response = super().handle_request(request)
        if self.tries[-1] == "0":
            response.read()
            raise httpx2.ReadTimeout("lost", request=request)
        return response


def test_the_retries_of_the_unmodified_sdk_make_nothing_twice(server: Server, cast: Cast) -> None:
    network = LosesAnswers()
    with httpx2.Client(transport=network) as http, sdk(server, cast.alice, http_client=http, max_retries=1) as client:
        uploaded = client.files.create(file=("rows.jsonl", jsonl([line(1)])), purpose="batch")
        created = client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "1"}
        )
    assert network.tries == ["0", "1"] * 2
    assert made() == (1, 1, 1)
    assert [entry["id"] for entry in cast.alice.client.get("/v1/batches").json()["data"]] == [created.id]
    assert [entry["id"] for entry in cast.alice.client.get("/v1/files").json()["data"]] == [uploaded.id]
