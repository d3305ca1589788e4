"""What a batch was worked on in is removed in time; what its customer and the books need stays."""

from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.db import IntegrityError
from pytest_django import Settings

from batches import retention
from batches.closing import close_due_batches, reassemble_batch
from batches.retention import remove_old_leases, remove_old_rows
from batches.tasks import remove_old
from common.storage import IncomingBlob
from fleet.models import Lease
from tests.support.blobs import blobs
from tests.support.cast import Cast, Member
from tests.support.facts import change, count, uuid_of
from tests.support.rows import cancel, jsonl, line, read_file, retrieve, submit
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.worker import Worker, run_control

WORKED_IN = ["batches_row", "batches_segment", "batches_shard", "fleet_lease"]
KEPT = ["batches_batch", "files_storedfile", "metering_usageevent", "tenants_auditevent"]
DAYS = 24 * 3_600


def finish(member: Member, worker: Worker, *, rows: int = 3) -> Any:
    """A completed batch with a line that failed."""
    batch = submit(
        member, jsonl([*[line(number) for number in range(rows)], {"custom_id": "bad"}]), on_invalid="skip"
    )  # fmt: skip
    run_control()
    worker.answer_all()
    run_control()
    return retrieve(member, batch)


def let_age(days: float, *batches: Any) -> None:
    """As if these batches, or all, had happened so many days earlier, and all leases with them."""
    columns = ("created_at", "completed_at", "failed_at", "expired_at", "cancelled_at")
    earlier = f"make_interval(secs => {days * DAYS})"
    ages = ", ".join(f"{column} = {column} - {earlier}" for column in columns)
    change(
        f"UPDATE batches_batch SET {ages} WHERE id = ANY (%s::uuid[]) OR %s",
        [uuid_of(batch) for batch in batches],
        not batches,
    )
    change(f"UPDATE fleet_lease SET created_at = created_at - {earlier}")


def contents(member: Member, batch: Any) -> list[Any]:
    """What stands in the batch's files."""
    return [read_file(member, batch[name]) for name in ("input_file_id", "output_file_id", "error_file_id")]


def counts() -> list[int]:
    return [count(table) for table in WORKED_IN]


def test_rows_go_after_ninety_days_and_the_batch_stays(cast: Cast) -> None:
    batch = finish(cast.alice, Worker())
    files = contents(cast.alice, batch)
    stored, before = blobs(), rows_of(cast.alice.organization.id)
    let_age(89.9)
    assert (remove_old_rows(), counts()) == (0, [4, 1, 1, 4])
    let_age(0.2)
    shown = retrieve(cast.alice, batch)
    remove_old()
    assert counts() == [0, 0, 0, 0]
    assert retrieve(cast.alice, batch) == shown
    assert shown["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert [
        read_file(cast.alice, batch[name]) for name in ("input_file_id", "output_file_id", "error_file_id")
    ] == files
    after = rows_of(cast.alice.organization.id)
    assert [after[table] for table in KEPT[1:]] == [before[table] for table in KEPT[1:]]
    assert blobs() == stored


def test_what_has_been_removed_is_not_removed_again(cast: Cast) -> None:
    finish(cast.alice, Worker())
    let_age(91)
    assert [remove_old_rows(), remove_old_rows()] == [1, 0]
    assert [remove_old_leases(), remove_old_leases()] == [2, 0]  # validation and assembly; clearing went with the batch


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_every_kind_of_end_counts(cast: Cast, status: str) -> None:
    lines = [{"custom_id": "bad"}] if status == "failed" else [line(1)]
    batch = submit(cast.alice, jsonl(lines))
    if status == "expired":
        run_control()
        change("UPDATE batches_batch SET expires_at = now()")
        close_due_batches()
    if status == "cancelled":
        run_control()
        cancel(cast.alice, batch)
    run_control()
    assert retrieve(cast.alice, batch)["status"] == status
    let_age(91)
    remove_old()
    assert counts() == [0, 0, 0, 0]
    assert retrieve(cast.alice, batch)["status"] == status


def test_what_has_not_ended_or_not_long_ago_is_left_alone(cast: Cast) -> None:
    worker = Worker()
    finish(cast.charlie, worker)
    waiting = submit(cast.alice, jsonl([line(1)]))
    run_control()
    grant = worker.lease()
    old = finish(cast.alice, Worker(name="node-2"))
    validating = submit(cast.alice, jsonl([line(1)]))
    let_age(1_000, waiting, old, validating)
    before = rows_of(cast.charlie.organization.id), rows_of(cast.alice.organization.id)
    assert remove_old_rows() == 1
    assert remove_old_leases() == 4  # of all that has ended, only what no batch refers to
    assert rows_of(cast.charlie.organization.id)["batches_row"] == before[0]["batches_row"]
    assert rows_of(cast.charlie.organization.id)["batches_shard"] == before[0]["batches_shard"]
    assert [row["line"] for row in grant.rows()] == [1]
    assert retrieve(cast.alice, validating)["status"] == "validating"
    assert Lease.all_tenants.filter(state__in=["waiting", "leased"]).count() == 2


def test_a_batch_without_its_files_keeps_what_they_are_made_of(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 1
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().answer_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IncomingBlob, "keep_new", _fail)
        run_control()
    assert retrieve(cast.alice, batch)["status"] == "failed"
    let_age(1_000)
    before = counts()
    assert (remove_old_rows(), counts()) == (0, before)
    reassemble_batch(wire_id=batch["id"])
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"


def _fail(*_: object) -> str:
    raise RuntimeError("in a test")


def test_zero_days_keep_everything(cast: Cast, settings: Settings) -> None:
    finish(cast.alice, Worker())
    let_age(10_000)
    before = counts()
    settings.BATCH_ROW_RETENTION_DAYS = 0
    remove_old()
    assert counts() == before


def test_segments_that_could_not_be_cleared_are_deleted_with_their_blobs(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 1
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().answer_all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batches.assembly.delete_blob", _fail)
        run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    segments = {key for key in blobs() if key.startswith(f"{cast.alice.organization.id.hex}/segments/")}
    assert len(segments) == 1
    let_age(91)
    remove_old()
    assert (counts(), blobs() & segments) == ([0, 0, 0, 0], set())


def test_a_removal_that_was_killed_is_taken_up_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    finish(cast.alice, Worker(), rows=9)
    let_age(91)
    monkeypatch.setattr(retention, "CHUNK_ROWS", 2)
    delete_rows, calls = retention._delete_rows, []

    def die_in_the_middle(*place: Any) -> bool:
        calls.append(place)
        if len(calls) == 3:
            raise KilledError
        return delete_rows(*place)

    with monkeypatch.context() as patch:
        patch.setattr(retention, "_delete_rows", die_in_the_middle)
        with pytest.raises(KilledError):
            remove_old_rows()
    assert counts()[:3] == [6, 1, 1]
    remove_old()
    assert counts() == [0, 0, 0, 0]


def test_one_batch_that_cannot_be_cleared_does_not_keep_the_others(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    broken, _ = finish(cast.alice, worker), finish(cast.charlie, worker)
    change("UPDATE batches_segment SET storage_key = 'x' WHERE batch_id = %s", uuid_of(broken))
    let_age(91)
    with monkeypatch.context() as patch:
        patch.setattr(default_storage, "delete", _fail)
        assert remove_old_rows() == 1
    assert counts()[:3] == [4, 1, 1]
    assert remove_old_rows() == 1


def test_two_removals_at_once_are_one(cast: Cast) -> None:
    finish(cast.alice, Worker(), rows=9)
    let_age(91)
    at_once(remove_old_rows, remove_old_rows, remove_old_rows)
    remove_old()
    assert counts() == [0, 0, 0, 0]


def test_a_round_clears_so_many_and_the_next_goes_on(cast: Cast) -> None:
    worker = Worker()
    for _ in range(3):
        finish(cast.alice, worker)
    let_age(91)
    assert [remove_old_rows(limit=2), remove_old_rows(limit=2), remove_old_rows(limit=2)] == [2, 1, 0]
    assert [remove_old_leases(limit=4), remove_old_leases(limit=4), remove_old_leases(limit=4)] == [4, 2, 0]


def test_a_shard_is_of_the_rows_batch(cast: Cast) -> None:
    worker = Worker()
    first, second = finish(cast.alice, worker), finish(cast.alice, worker)
    shards = "SELECT id FROM batches_shard WHERE batch_id = %s"
    with pytest.raises(IntegrityError, match="batches_row_shard_id_tenant_fk"):
        change(f"UPDATE batches_row SET shard_id = ({shards}) WHERE batch_id = %s", uuid_of(first), uuid_of(second))
