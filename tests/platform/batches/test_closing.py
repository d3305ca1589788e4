"""Cancel and expiry: what has finished is kept and charged, the rest ends, and nothing hangs."""

from typing import Any

import pytest
from pytest_django import Settings

from batches import closing, scan, validation
from batches.closing import close_due_batches
from batches.requests import parse_request
from catalog.services import retire_model
from fleet.services import sweep_leases
from tests.services import storage_root
from tests.support.cast import MODEL, Cast
from tests.support.facts import (
    accounts,
    accounts_agree,
    change,
    count,
    leases,
    let_back_off_pass,
    let_grace_pass,
    let_leases_run_out,
    let_window_close,
    query_owner,
)
from tests.support.model import add_model
from tests.support.rows import cancel, jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, result, run_control


def running(cast: Cast, rows: int = 4) -> Any:
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, rows + 1)]))
    run_control()
    return batch


def error_codes(cast: Cast, batch: Any) -> list[tuple[int, str, str]]:
    rows = read_file(cast.alice, retrieve(cast.alice, batch)["error_file_id"])
    assert {row["response"] for row in rows} == {None}
    return [(row["line"], row["custom_id"], row["error"]["code"]) for row in rows]


def test_a_batch_that_waits_is_cancelled_at_once(cast: Cast) -> None:
    batch = running(cast)
    answer = cancel(cast.alice, batch)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
    assert answer.json()["cancelling_at"] is not None
    assert Worker().request_lease().status_code == 204
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "cancelled"
    assert done["cancelled_at"] >= done["cancelling_at"]
    assert done["request_counts"] == {"total": 4, "completed": 0, "failed": 4}
    assert done["output_file_id"] is None
    assert error_codes(cast, batch) == [(n, f"row-{n}", "batch_cancelled") for n in range(1, 5)]
    assert done["cost_nanos"] == count("metering_usageevent") == 0
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_a_batch_whose_validation_waits_is_cancelled_without_any_row(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    cancel(cast.alice, batch)
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["total"]) == ("cancelled", 0)
    assert (done["output_file_id"], done["error_file_id"]) == (None, None)
    assert (count("batches_row"), len(leases())) == (0, 0)


def test_a_validation_that_runs_stops_when_the_batch_is_cancelled(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = submit(cast.alice, jsonl([line(1), line(2)]))
    monkeypatch.setattr("fleet.heartbeat.RENEW_SECONDS", -1)
    seen: list[Any] = []

    def read_and_cancel(*arguments: Any, **options: Any) -> Any:
        seen.append(cancel(cast.alice, batch).json()["status"])
        return parse(*arguments, **options)

    parse = parse_request
    monkeypatch.setattr(scan, "parse_request", read_and_cancel)
    run_control()
    assert seen == ["cancelling"]
    assert retrieve(cast.alice, batch)["status"] == "cancelled"
    assert [lease.state for lease in leases("batch_validation")] == ["cancelled"]
    assert count("batches_row") == 0


def test_a_holder_is_told_brings_what_it_has_and_the_batch_ends_when_it_lets_go(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    grant.put(0, [result(2)])
    assert grant.heartbeat() == "continue"
    assert cancel(cast.alice, batch).json()["status"] == "cancelling"
    assert grant.heartbeat() == "cancel"
    assert grant.put(1, [result(4)]).status_code == 201
    assert retrieve(cast.alice, batch)["status"] == "cancelling"
    assert grant.fail("cancelled", retryable=False).status_code == 200
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "cancelled"
    assert done["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    assert done["cost_nanos"] == 2 * (10 * 50 + 5 * 100)
    assert [row["custom_id"] for row in read_file(cast.alice, done["output_file_id"])] == ["row-2", "row-4"]
    assert error_codes(cast, batch) == [(1, "row-1", "batch_cancelled"), (3, "row-3", "batch_cancelled")]
    assert accounts_agree(batch), accounts(batch)


def test_the_batch_ends_with_its_last_holder_and_not_before(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 2
    batch = running(cast)
    first, second = Worker(name="node-1").lease(), Worker(name="node-2").lease()
    cancel(cast.alice, batch)
    first.fail("cancelled", retryable=False)
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelling"
    assert second.put(0, [result(row["line"]) for row in second.rows()]).status_code == 201
    assert second.complete().status_code == 200
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["completed"]) == ("cancelled", 2)


def test_a_holder_that_stays_silent_is_fenced_off_after_its_grace(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    grant.put(0, [result(1)])
    cancel(cast.alice, batch)
    close_due_batches()
    assert retrieve(cast.alice, batch)["status"] == "cancelling"
    let_grace_pass()
    close_due_batches()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]) == ("cancelled", {"total": 4, "completed": 1, "failed": 3})
    late = grant.put(1, [result(2)])
    assert (late.status_code, late.json()["error"]["code"]) == (409, "lease_lost")
    assert accounts_agree(batch), accounts(batch)
    assert retrieve(cast.alice, batch) == done


def test_a_holder_that_died_is_not_waited_for(cast: Cast) -> None:
    batch = running(cast)
    Worker().lease()
    cancel(cast.alice, batch)
    let_leases_run_out()
    sweep_leases()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelled"


def test_cancelling_again_is_harmless(cast: Cast) -> None:
    batch = running(cast)
    first = cancel(cast.alice, batch)
    again = cancel(cast.alice, batch)
    assert (again.status_code, again.json()["cancelling_at"]) == (200, first.json()["cancelling_at"])
    run_control()
    afterwards = cancel(cast.alice, batch)
    assert (afterwards.status_code, afterwards.json()) == (200, retrieve(cast.alice, batch))
    assert query_owner(
        "SELECT count(*) FROM tenants_auditevent WHERE actor <> 'system' AND action LIKE 'batch.canc%%'"
    ) == [(1,)]


def test_a_batch_at_its_end_cannot_be_cancelled(cast: Cast) -> None:
    batch = running(cast)
    for status in ("completed", "failed", "finalizing", "expired"):
        change("UPDATE batches_batch SET status = %s, pending = 0, failed = 4", status)
        answer = cancel(cast.alice, batch)
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "conflict"
        assert answer.json()["error"]["message"] == f"A batch that is {status} cannot be cancelled"
        assert answer.headers["x-should-retry"] == "false"
        assert retrieve(cast.alice, batch)["status"] == status


def test_the_window_closes_on_what_has_not_run(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    grant.put(0, [result(3)])
    close_due_batches()
    assert grant.heartbeat() == "continue"
    let_window_close(batch)
    close_due_batches()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert grant.heartbeat() == "cancel"
    conflict = cancel(cast.alice, batch)
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
    grant.fail("cancelled", retryable=False)
    assert retrieve(cast.alice, batch)["status"] == "finalizing"
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "expired"
    assert (done["expired_at"] is not None, done["completed_at"], done["cancelled_at"]) == (True, None, None)
    assert done["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
    assert done["cost_nanos"] == 10 * 50 + 5 * 100
    assert error_codes(cast, batch) == [(n, f"row-{n}", "batch_expired") for n in (1, 2, 4)]
    assert [row["custom_id"] for row in read_file(cast.alice, done["output_file_id"])] == ["row-3"]
    assert accounts_agree(batch), accounts(batch)
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_a_batch_that_is_cancelled_while_its_bad_file_is_refused_ends_cancelled(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submit(cast.alice, b"bad\n")
    refuse = closing.close_failed

    def cancel_first(**arguments: Any) -> None:
        assert cancel(cast.alice, batch).status_code == 200
        refuse(**arguments)

    monkeypatch.setattr(validation, "close_failed", cancel_first)
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["failed_at"], done["error_file_id"]) == ("cancelled", None, None)
    assert list(storage_root().glob(f"{cast.alice.organization.id.hex}/files/*")) == [
        storage_root() / query_owner("SELECT storage_key FROM files_storedfile")[0][0]
    ]


def test_a_batch_that_was_never_validated_expires(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    let_window_close(batch)
    close_due_batches()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["total"]) == ("expired", 0)


def test_a_batch_that_writes_its_files_does_not_expire(cast: Cast) -> None:
    batch = running(cast)
    Worker().answer_all()
    let_window_close(batch)
    close_due_batches()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"


def test_bad_lines_stay_in_their_place_among_cancelled_ones(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]) + b"nonsense\n" + jsonl([line(3)]), on_invalid="skip")
    run_control()
    cancel(cast.alice, batch)
    run_control()
    assert error_codes(cast, batch) == [
        (1, "row-1", "batch_cancelled"),
        (2, None, "invalid_json_line"),
        (3, "row-3", "batch_cancelled"),
    ]


def test_rows_of_a_withdrawn_model_fail_and_the_others_run(cast: Cast, tmp_path: Any) -> None:
    add_model(tmp_path / "other", name="other")
    lines = [line(1), line(2, body={**line(2)["body"], "model": "other"}), line(3)]
    batch = submit(cast.alice, jsonl(lines))
    run_control()
    retire_model(name="other")
    close_due_batches()
    assert retrieve(cast.alice, batch)["request_counts"] == {"total": 3, "completed": 0, "failed": 1}
    assert Worker().answer_all(model="other") == 0
    assert Worker(name="node-2").answer_all() == 2
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["model"]) == ("completed", None)
    (row,) = read_file(cast.alice, done["error_file_id"])
    assert (row["line"], row["custom_id"]) == (2, "row-2")
    assert row["error"] == {"code": "model_not_found", "message": "The model 'other' has been withdrawn", "param": None}


def test_a_node_may_finish_what_it_holds_of_a_withdrawn_model(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    retire_model(name=MODEL)
    close_due_batches()
    grant.put(0, [result(1)])
    grant.fail()
    let_back_off_pass()
    close_due_batches()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 4, "completed": 1, "failed": 3})


def test_a_model_that_is_withdrawn_before_validation_is_not_found(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    retire_model(name=MODEL)
    run_control()
    failed = retrieve(cast.alice, batch)
    assert (failed["status"], failed["errors"]["data"][0]["code"]) == ("failed", "model_not_found")


def test_a_batch_that_cannot_be_closed_does_not_keep_the_others(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, healthy = running(cast, rows=1), running(cast, rows=2)
    let_window_close(broken)
    let_window_close(healthy)
    queue = closing.start_assembly

    def fail_for_one(*, batch: Any) -> None:
        assert batch.total != 1
        queue(batch=batch)

    with monkeypatch.context() as patch:
        patch.setattr(closing, "start_assembly", fail_for_one)
        close_due_batches()
    assert "periodic work failed" in caplog.text
    run_control()
    assert [retrieve(cast.alice, batch)["status"] for batch in (broken, healthy)] == ["in_progress", "expired"]
    close_due_batches()
    run_control()
    assert retrieve(cast.alice, broken)["status"] == "expired"
