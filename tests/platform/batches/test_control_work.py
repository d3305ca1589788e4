"""Validation and assembly are leases like any other: killed, repeated, given up with a clear end."""

from typing import Any

import pytest
from pytest_django import Settings

from batches import scan, validation
from batches.requests import parse_request
from batches.rows import insert_rows
from common.errors import HoneError
from fleet.claims import claim_lease
from fleet.handlers import control_kinds
from fleet.services import sweep_leases
from fleet.tasks import run_control_work, sweep
from tests.support.cast import Cast
from tests.support.facts import change, count, leases, let_back_off_pass, let_leases_run_out, query_owner
from tests.support.rows import jsonl, line, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, run_control


def claim() -> Any:
    """As a control worker that is killed right after its claim."""
    lease = claim_lease(kinds=control_kinds(), models=[""], node_id=None)
    assert lease is not None
    return lease


def test_work_of_a_killed_control_worker_is_done_by_another(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    claim()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "validating"
    let_leases_run_out()
    sweep()
    let_back_off_pass()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert [(lease.state, lease.epoch, lease.attempts) for lease in leases("batch_validation")] == [("done", 2, 1)]


def test_a_validation_that_comes_second_is_fenced_off(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1), line(2)]))
    slow = claim()
    let_leases_run_out()
    sweep_leases()
    let_back_off_pass()
    run_control()
    before = query_owner("SELECT to_jsonb(b)::text FROM batches_batch b")
    with pytest.raises(HoneError) as refused:
        validation.validate_batch(lease=slow)
    assert refused.value.code == "lease_lost"
    assert query_owner("SELECT to_jsonb(b)::text FROM batches_batch b") == before
    assert (count("batches_row"), count("batches_shard"), len(leases())) == (2, 1, 1)
    assert retrieve(cast.alice, batch)["request_counts"]["total"] == 2


def test_validation_is_tried_again_with_growing_pauses_and_then_given_up(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.LEASE_MAX_ATTEMPTS = 4
    batch = submit(cast.alice, jsonl([line(1)]))
    monkeypatch.setattr(scan, "read_lines", _crash)
    pauses = []
    for _ in range(3):
        run_control()
        assert retrieve(cast.alice, batch)["status"] == "validating"
        ((pause,),) = query_owner("SELECT round(extract(epoch FROM not_before - now())) FROM fleet_lease")
        pauses.append(int(pause))
        run_control()  # nothing is due yet
        let_back_off_pass()
    run_control()
    assert pauses == [1, 3, 7]
    assert "control work failed" in caplog.text
    failed = retrieve(cast.alice, batch)
    assert failed["status"] == "failed"
    assert failed["errors"]["data"] == [
        {
            "code": "internal_error",
            "message": "The work failed unexpectedly (given up after several tries)",
            "param": None,
            "line": None,
        }
    ]
    assert [(lease.state, lease.attempts) for lease in leases("batch_validation")] == [("failed", 4)]
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_a_file_that_keeps_killing_its_worker_fails_with_a_published_code(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 2
    batch = submit(cast.alice, jsonl([line(1)]))
    for _ in range(2):
        claim()
        let_leases_run_out()
        sweep_leases()
        let_back_off_pass()
    failed = retrieve(cast.alice, batch)
    assert failed["status"] == "failed"
    assert [(error["code"], error["message"]) for error in failed["errors"]["data"]] == [
        ("batch_failed", "The holder of the work went silent (given up after several tries)")
    ]


def test_a_store_that_is_full_during_validation_is_named(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.LEASE_MAX_ATTEMPTS = 1
    batch = submit(cast.alice, jsonl([line(1)]))
    monkeypatch.setattr(validation.Plan, "add", _no_space)
    run_control()
    failed = retrieve(cast.alice, batch)
    assert (failed["status"], failed["errors"]["data"][0]["code"]) == ("failed", "storage_full")


def test_a_store_that_was_full_for_a_moment_costs_a_try(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    with monkeypatch.context() as full:
        full.setattr(validation.Plan, "add", _no_space)
        run_control()
    let_back_off_pass()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert count("batches_row") == 1


def test_a_validation_that_gets_on_keeps_its_lease(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(cast.alice, jsonl([line(1), line(2)]))
    monkeypatch.setattr("fleet.heartbeat.RENEW_SECONDS", -1)
    held = []
    parse = parse_request

    def parse_slowly(data: bytes) -> Any:
        held.append(query_owner("SELECT extract(epoch FROM leased_until - now()) > 10 FROM fleet_lease")[0][0])
        let_leases_run_out()
        return parse(data)

    monkeypatch.setattr(scan, "parse_request", parse_slowly)
    run_control_work()
    assert held == [True, True]
    assert [lease.state for lease in leases("batch_validation")] == ["done"]


def test_a_sweep_leaves_a_commit_in_peace_that_takes_longer_than_its_lease(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    settings.LEASE_SECONDS = -1
    swept_when: list[str] = []
    insert = insert_rows

    def insert_slowly(**arguments: Any) -> None:
        at_once(sweep_leases)
        swept_when.append("while the lease is locked")
        insert(**arguments)

    monkeypatch.setattr(validation, "insert_rows", insert_slowly)
    run_control_work()
    assert swept_when == ["while the lease is locked"]
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert [(lease.state, lease.attempts) for lease in leases("batch_validation")] == [("done", 0)]


def test_work_whose_batch_has_moved_on_ends_without_a_trace(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 1
    batch = submit(cast.alice, jsonl([line(1)]))
    change("UPDATE batches_batch SET control_lease_id = NULL")
    run_control()
    assert [lease.state for lease in leases("batch_validation")] == ["failed"]
    assert retrieve(cast.alice, batch)["status"] == "validating"


def test_one_lease_that_cannot_be_freed_does_not_keep_the_others(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        submit(cast.alice, jsonl([line(number)]))
    run_control()
    worker = Worker()
    grants = [worker.lease(), worker.lease()]
    change("UPDATE fleet_lease SET kind = 'unknown' WHERE id = %s", grants[0].id.removeprefix("lease_"))
    let_leases_run_out()
    sweep_leases()
    assert "periodic work failed" in caplog.text
    assert [lease.state for lease in leases()] == ["waiting"]


def _crash(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
