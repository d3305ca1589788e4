"""The files at the end: input order, and no end at all unless the books agree."""

from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from batches import assembly
from common.errors import HoneError
from common.storage import IncomingBlob
from fleet.services import sweep_leases
from tests.services import storage_root
from tests.support.cast import MODEL, Cast
from tests.support.facts import change, count, leases, let_back_off_pass, query_owner, uuid_of
from tests.support.model import add_model
from tests.support.rows import cancel, create, jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, failure, refusal, result, run_control


def answered(cast: Cast, rows: int = 4, **options: Any) -> Any:
    """A batch whose rows all have results, still without its files."""
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, rows + 1)]), **options)
    run_control()
    Worker().answer_all()
    assert retrieve(cast.alice, batch)["status"] == "finalizing"
    return batch


def blobs() -> list[str]:
    return sorted(str(path.relative_to(storage_root())) for path in storage_root().rglob("*") if path.is_file())


def test_files_are_in_input_order_across_shards_models_and_segments(
    cast: Cast, settings: Settings, tmp_path: Any
) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 3
    add_model(tmp_path / "other", name="other")
    other = {**line(1)["body"], "model": "other"}
    lines = [line(number, **({"body": other} if number % 3 == 0 else {})) for number in range(1, 12)]
    batch = submit(cast.alice, jsonl(lines))
    run_control()
    worker = Worker(models=(MODEL, "other"))
    for model, shards in (("other", 1), ("little", 3)):
        grants = [worker.lease(model=model) for _ in range(shards)]
        for grant in grants[::-1]:
            results = [refusal(row["line"]) if row["line"] % 5 == 0 else result(row["line"]) for row in grant.rows()]
            assert grant.put(0, results[:0:-1]).status_code == 201
            assert grant.put(1, results[:1]).status_code == 201
            assert grant.complete().status_code == 200
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["model"]) == ("completed", None)
    output = read_file(cast.alice, done["output_file_id"])
    errors = read_file(cast.alice, done["error_file_id"])
    assert [row["custom_id"] for row in output] == [f"row-{n}" for n in range(1, 12) if n % 5]
    assert [row["response"]["request_id"] for row in output] == [f"req_{n}" for n in range(1, 12) if n % 5]
    assert [row["custom_id"] for row in errors] == ["row-5", "row-10"]
    assert {row["response"]["status_code"] for row in errors} == {400}


def test_the_timestamps_tell_the_story_in_order(cast: Cast) -> None:
    batch = answered(cast)
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    assert [done[name] for name in ("failed_at", "expired_at", "cancelling_at", "cancelled_at")] == [None] * 4


def test_no_success_means_no_output_file(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1), line(2)]))
    run_control()
    grant = Worker().lease()
    grant.put(0, [refusal(1), failure(2)])
    grant.complete()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["output_file_id"], done["cost_nanos"]) == ("completed", None, 0)
    rows = read_file(cast.alice, done["error_file_id"])
    assert [row["response"] and row["response"]["status_code"] for row in rows] == [400, None]


def test_produced_files_belong_to_the_project_and_live_as_long_as_asked(cast: Cast) -> None:
    file = cast.alice.client.upload(jsonl([line(1)])).json()
    batch = create(cast.alice, file["id"], output_expires_after={"anchor": "created_at", "seconds": 7_200}).json()
    run_control()
    Worker().answer_all()
    run_control()
    done = retrieve(cast.alice, batch)
    output = cast.alice.client.get(f"/v1/files/{done['output_file_id']}").json()
    assert (output["purpose"], output["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert output["expires_at"] == output["created_at"] + 7_200
    assert cast.charlie.client.get(f"/v1/files/{done['output_file_id']}/content").status_code == 404
    assert cast.alice.client.delete(f"/v1/files/{done['output_file_id']}").status_code == 200


TAMPERINGS = {
    "counter": ("UPDATE batches_batch SET completed = completed - 1, failed = failed + 1", "completed"),
    "tokens": ("UPDATE batches_batch SET input_tokens = input_tokens + 1", "input tokens"),
    "cost": ("UPDATE batches_batch SET cost_nanos = cost_nanos + 1", "cost"),
    "event_tokens": ("UPDATE metering_usageevent SET output_tokens = output_tokens + 1", "output tokens"),
    "event_cached": ("UPDATE metering_usageevent SET cached_tokens = 1", "cached tokens"),
    "event_cost": ("UPDATE metering_usageevent SET cost_nanos = cost_nanos - 1", "cost"),
    "event_lost": ("DELETE FROM metering_usageevent", "completed"),
    "row_cost": ("UPDATE batches_row SET cost_nanos = 0 WHERE line = 2", "cost"),
    "row_state": ("UPDATE batches_row SET state = 'failed' WHERE line = 2", "failed"),
    "row_pending": ("UPDATE batches_row SET state = 'pending', segment_id = NULL WHERE line = 2", "pending"),
    "row_lost": ("DELETE FROM batches_row WHERE line = 2", "lines"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_batch_whose_books_disagree_is_held_and_never_completed(cast: Cast, name: str) -> None:
    sql, suspect = TAMPERINGS[name]
    batch = answered(cast)
    before = blobs()
    assert change(sql) >= 1
    run_control()
    held = retrieve(cast.alice, batch)
    assert held["status"] == "finalizing"
    assert suspect in [reason.partition(":")[0] for reason in held["held_reason"].split("; ")]
    assert (held["output_file_id"], held["error_file_id"], held["completed_at"]) == (None, None, None)
    assert (count("files_storedfile"), blobs()) == (1, before)
    assert not [lease for lease in leases("batch_assembly") if lease.state in ("waiting", "leased")]
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 409


def test_a_held_batch_completes_once_its_books_are_mended(cast: Cast, capsys: pytest.CaptureFixture[str]) -> None:
    batch = answered(cast)
    change("UPDATE batches_batch SET cost_nanos = cost_nanos + 1")
    run_control()
    change("UPDATE batches_batch SET cost_nanos = cost_nanos - 1")
    call_command("reassemble_batch", batch["id"])
    assert capsys.readouterr().out == f"{batch['id']} is finalizing again\n"
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["held_reason"]) == ("completed", None)
    assert len(read_file(cast.alice, done["output_file_id"])) == 4


def test_a_held_batch_that_was_being_cancelled_ends_cancelled(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    cancel(cast.alice, batch)
    change("UPDATE batches_batch SET cost_nanos = 1")
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelling"
    change("UPDATE batches_batch SET cost_nanos = 0")
    call_command("reassemble_batch", batch["id"])
    assert retrieve(cast.alice, batch)["status"] == "cancelling"
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelled"


def test_files_that_cannot_be_stored_fail_the_batch_until_it_is_assembled_again(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.LEASE_MAX_ATTEMPTS = 2
    batch = submit(cast.alice, jsonl([line(1), line(2)]) + b"bad\n", on_invalid="skip")
    run_control()
    Worker().answer_all()
    with monkeypatch.context() as full:
        full.setattr(IncomingBlob, "keep", _full)
        for _ in range(2):
            run_control()
            let_back_off_pass()
    failed = retrieve(cast.alice, batch)
    assert failed["status"] == "failed"
    assert [(error["line"], error["code"]) for error in failed["errors"]["data"]] == [
        (None, "storage_full"),
        (3, "invalid_json_line"),
    ]
    assert failed["errors"]["data"][0]["message"] == (
        "no room (given up after several tries; the results are kept, and the operator can have them assembled again)"
    )
    assert failed["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200
    call_command("reassemble_batch", batch["id"])
    assert retrieve(cast.alice, batch)["status"] == "finalizing"
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["failed_at"]) == ("completed", None)
    assert [error["line"] for error in done["errors"]["data"]] == [3]
    assert len(read_file(cast.alice, done["output_file_id"])) == 2


@pytest.mark.parametrize("state", ["validating", "in_progress", "completed", "failed"])
def test_only_a_batch_without_its_files_is_assembled_again(cast: Cast, state: str) -> None:
    content = b"bad\n" if state == "failed" else jsonl([line(1)])
    batch = submit(cast.alice, content)
    steps: list[Any] = {"validating": [], "completed": [run_control, Worker().answer_all, run_control]}.get(
        state, [run_control]
    )
    for step in steps:
        step()
    before = retrieve(cast.alice, batch)
    assert before["status"] == state
    with pytest.raises(CommandError, match=f"is {state}; only a batch without its files"):
        call_command("reassemble_batch", batch["id"])
    assert retrieve(cast.alice, batch) == before


def test_a_batch_that_is_not_there_is_not_assembled() -> None:
    for unknown in (f"batch_{'0' * 32}", "batch_1", "file-1"):
        with pytest.raises(CommandError, match=f"No such batch: {unknown}"):
            call_command("reassemble_batch", unknown)


def test_an_assembly_killed_before_its_commit_leaves_no_second_pair_of_files(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = answered(cast)
    with monkeypatch.context() as patch:
        patch.setattr("batches.assembly._conclude", _killed)
        with pytest.raises(KeyboardInterrupt):
            run_control()
    assert [lease.state for lease in leases("batch_assembly")] == ["leased"]
    change("UPDATE fleet_lease SET leased_until = now() - interval '1 hour' WHERE state = 'leased'")
    sweep_leases()
    let_back_off_pass()
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "completed"
    listed = cast.alice.client.get("/v1/files?purpose=batch_output").json()["data"]
    assert [file["id"] for file in listed] == [done["output_file_id"]]


def test_an_assembly_that_has_lost_its_lease_leaves_nothing_behind(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = answered(cast)
    before = blobs()
    conclude = assembly._conclude

    def too_late(*arguments: Any) -> bool:
        change("UPDATE fleet_lease SET epoch = epoch + 1 WHERE state = 'leased'")
        return conclude(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_conclude", too_late)
        run_control()
    assert (count("files_storedfile"), blobs()) == (1, before)
    assert retrieve(cast.alice, batch)["status"] == "finalizing"


def test_what_the_files_were_made_of_goes_once_they_are_there(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = answered(cast)
    before = blobs()
    folder = f"{cast.alice.organization.id.hex}/segments/"
    assert len([path for path in before if path.startswith(folder)]) == 1
    with monkeypatch.context() as away:
        away.setattr(assembly, "delete_blob", _full)
        run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    assert set(before) < set(blobs())
    let_back_off_pass()
    run_control()
    assert [path for path in blobs() if path.startswith(folder)] == []
    assert query_owner("SELECT storage_key FROM batches_segment") == [("",)]
    done = retrieve(cast.alice, batch)
    assert len(read_file(cast.alice, done["output_file_id"])) == 4


def test_every_end_stands_in_the_audit_log(cast: Cast) -> None:
    batch = answered(cast)
    run_control()
    events = query_owner(
        "SELECT actor, action FROM tenants_auditevent WHERE subject = %s ORDER BY id", f"batch_{uuid_of(batch)}"
    )
    assert [action for _, action in events] == ["batch.created", "batch.completed"]
    assert events[0][0].startswith("key_")
    assert events[1][0] == "system"


def _full(*_: object) -> None:
    raise HoneError("storage_full", "no room")


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
