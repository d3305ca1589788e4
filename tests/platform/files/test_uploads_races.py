"""Every call on an upload runs at the same time as itself and all others, is repeated, and is killed in the middle."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from common.storage import IncomingBlob
from files import uploads
from files.models import UploadPart
from files.uploads import close_uploads
from tenants.models import Organization
from tenants.services import set_organization_status
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.facts import change, count
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.uploads import announce, begin, cancel, complete, send

PARTS = [b"first,", b"second,", b"third"]
WHOLE = b"".join(PARTS)
RETRY = {"x-stainless-retry-count": "1"}


def named(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def made() -> tuple[int, int, int]:
    """Uploads, parts and files."""
    return count("files_upload"), count("files_uploadpart"), count("files_storedfile")


def content(member: Member, file_id: str) -> bytes:
    found: bytes = member.client.get(f"/v1/files/{file_id}/content").getvalue()
    return found


class KilledError(BaseException):
    """The process is gone."""


def die(*_: object, **__: object) -> None:
    raise KilledError


def test_parts_at_once_and_in_any_order(cast: Cast) -> None:
    pieces = [f"{number:04}".encode() * 1_000 for number in range(16)]
    upload_id = announce(cast.alice, sum(map(len, pieces))).json()["id"]
    order = [*range(16), *range(16)]  # each of them twice
    random.Random(7).shuffle(order)
    ids: dict[int, set[str]] = {}
    sent = at_once(
        *[lambda number=number: send(cast.alice, upload_id, pieces[number]).json()["id"] for number in order]
    )
    for number, part_id in zip(order, sent, strict=True):
        ids.setdefault(number, set()).add(part_id)
    assert {len(found) for found in ids.values()} == {1}
    assert made() == (1, 16, 0)
    part_ids = [min(ids[number]) for number in range(16)]
    completed = complete(cast.alice, upload_id, part_ids).json()
    assert content(cast.alice, completed["file"]["id"]) == b"".join(pieces)


@pytest.mark.parametrize("headers", [{}, RETRY, {"Idempotency-Key": "k"}], ids=["twice", "retry", "key"])
def test_completions_at_once_make_one_file(cast: Cast, headers: dict[str, str]) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    before = blobs()
    answers = at_once(*[lambda: complete(cast.alice, upload_id, part_ids, headers=headers)] * 6)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1
    assert made() == (1, 3, 1)
    assert len(blobs() - before) == 1


@pytest.mark.parametrize("attempt", range(3))
def test_of_completions_with_different_orders_one_wins(cast: Cast, attempt: int) -> None:
    upload_id, part_ids = begin(cast.alice, b"ab", b"cd")
    answers = at_once(
        lambda: complete(cast.alice, upload_id, part_ids), lambda: complete(cast.alice, upload_id, part_ids[::-1])
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    winner = [answer.status_code for answer in answers].index(200)
    (listed,) = cast.alice.client.get("/v1/files").json()["data"]
    assert content(cast.alice, listed["id"]) == [b"abcd", b"cdab"][winner]


@pytest.mark.parametrize("attempt", range(4))
def test_of_a_completion_and_a_cancellation_exactly_one_wins(cast: Cast, attempt: int) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    statuses = at_once(
        lambda: complete(cast.alice, upload_id, part_ids).status_code,
        lambda: cancel(cast.alice, upload_id).status_code,
    )
    assert statuses in ([200, 409], [409, 200])
    assert count("files_storedfile") == (1 if statuses[0] == 200 else 0)


def meanwhile(monkeypatch: pytest.MonkeyPatch, *calls: Any) -> list[Any]:
    """Do something else between a completion's first look and its joining; what that answers."""
    join, answers = uploads._join, list[Any]()

    def join_later(parts: Sequence[UploadPart], blob: IncomingBlob, size: int) -> str:
        monkeypatch.setattr(uploads, "_join", join)
        for call in calls:
            answers.extend(at_once(call))
        return join(parts, blob, size)

    monkeypatch.setattr(uploads, "_join", join_later)
    return answers


@pytest.mark.parametrize("are_parts_gone", [False, True])
def test_a_cancellation_wins_over_a_completion_that_has_begun(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, are_parts_gone: bool
) -> None:
    before = blobs()
    upload_id, part_ids = begin(cast.alice, *PARTS)
    cleaning = [close_uploads] if are_parts_gone else []
    answers = meanwhile(monkeypatch, lambda: cancel(cast.alice, upload_id).json()["status"], *cleaning)
    answer = complete(cast.alice, upload_id, part_ids)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert answers[0] == "cancelled"
    assert count("files_storedfile") == 0
    close_uploads()
    assert blobs() == before


@pytest.mark.parametrize("are_parts_gone", [False, True])
def test_a_completion_that_another_has_overtaken_gets_its_file(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, are_parts_gone: bool
) -> None:
    before = blobs()
    upload_id, part_ids = begin(cast.alice, *PARTS)
    cleaning = [close_uploads] if are_parts_gone else []
    answers = meanwhile(monkeypatch, lambda: complete(cast.alice, upload_id, part_ids).json(), *cleaning)
    assert complete(cast.alice, upload_id, part_ids).json() == answers[0]
    assert count("files_storedfile") == 1
    close_uploads()
    assert len(blobs() - before) == 1


def test_a_completion_that_began_in_time_is_done(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    meanwhile(monkeypatch, lambda: change("UPDATE files_upload SET expires_at = now() - interval '1 second'"))
    assert complete(cast.alice, upload_id, part_ids).json()["status"] == "completed"


def test_an_expiry_wins_over_a_completion_that_has_begun(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    expire = "UPDATE files_upload SET expires_at = now() - interval '1 second'"
    meanwhile(monkeypatch, lambda: change(expire), close_uploads)
    answer = complete(cast.alice, upload_id, part_ids)
    assert (answer.status_code, "expired" in answer.json()["error"]["message"]) == (409, True)
    assert made() == (1, 0, 0)


@pytest.mark.parametrize("headers", [named("k"), RETRY], ids=["key", "retry"])
def test_repeated_announcements_at_once_make_one_upload(cast: Cast, headers: dict[str, str]) -> None:
    ids = at_once(*[lambda: announce(cast.alice, 5, headers=headers).json()["id"]] * 10)
    assert (len(set(ids)), made()) == (1, (1, 0, 0))
    assert announce(cast.alice, 5).json()["id"] not in ids


def test_a_key_stands_for_one_request(cast: Cast) -> None:
    upload_id = announce(cast.alice, 6, headers=named("k")).json()["id"]
    part = send(cast.alice, upload_id, b"abc", headers=named("k")).json()
    assert send(cast.alice, upload_id, b"abc", headers=named("k")).json() == part
    other = send(cast.alice, upload_id, b"def").json()["id"]
    completed = complete(cast.alice, upload_id, [part["id"], other], headers=named("k")).json()
    before = rows_of(cast.alice.organization.id)
    assert complete(cast.alice, upload_id, [part["id"], other], headers=named("k")).json() == completed
    for answer in (
        announce(cast.alice, 7, headers=named("k")),
        complete(cast.alice, upload_id, [other, part["id"]], headers=named("k")),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert rows_of(cast.alice.organization.id) == before


@pytest.mark.parametrize("step", ["earlier", "add_file", "remember"])
def test_a_completion_that_was_killed_is_done_again(cast: Cast, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    before = rows_of(cast.alice.organization.id)
    with monkeypatch.context() as patch:
        patch.setattr(uploads, step, die)
        with pytest.raises(KilledError):
            complete(cast.alice, upload_id, part_ids)
    assert rows_of(cast.alice.organization.id) == before
    completed = complete(cast.alice, upload_id, part_ids, headers=RETRY).json()
    assert content(cast.alice, completed["file"]["id"]) == WHOLE
    assert made() == (1, 3, 1)


def test_a_part_that_was_killed_is_sent_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_id = announce(cast.alice, len(WHOLE)).json()["id"]
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "remember", die)
        with pytest.raises(KilledError):
            send(cast.alice, upload_id, PARTS[0])
    assert made() == (1, 0, 0)
    part_ids = [send(cast.alice, upload_id, part, headers=RETRY).json()["id"] for part in PARTS]
    assert complete(cast.alice, upload_id, part_ids).status_code == 200


@pytest.mark.parametrize("step", ["_end", "_delete_part"])
def test_a_cleaning_that_was_killed_is_taken_up_again(cast: Cast, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = blobs()
    begin(cast.alice, *PARTS)
    begin(cast.charlie, *PARTS)
    change("UPDATE files_upload SET expires_at = now() - interval '1 second'")
    original, calls = getattr(uploads, step), list[Any]()

    def die_later(*arguments: Any) -> None:
        original(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(uploads, step, die_later)
        with pytest.raises(KilledError):
            close_uploads()
    close_uploads()
    assert (made(), blobs()) == ((2, 0, 0), before)


def test_a_suspended_organisation_gets_no_file_from_a_completion_that_has_begun(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id, part_ids = begin(cast.alice, *PARTS)
    meanwhile(
        monkeypatch,
        lambda: set_organization_status(
            organization=cast.alice.organization, status=Organization.Status.SUSPENDED, actor="system"
        ),
    )
    before = blobs()
    answer = complete(cast.alice, upload_id, part_ids)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "organization_inactive")
    assert (made(), blobs()) == ((1, 3, 0), before)
