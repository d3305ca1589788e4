"""Everything that can happen to a batch at once: nothing waits for ever, nothing is counted twice.

Each test runs real calls on real connections, many times over, and then looks at the books.
"""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pytest_django import Settings

from batches.closing import close_due_batches
from fleet.claims import claim_lease
from fleet.services import sweep_leases
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
)
from tests.support.rows import cancel, jsonl, line, read_file, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Grant, Worker, result, run_control

ROUNDS = int(os.environ.get("HONE_RACE_ROUNDS", "2"))
"""More of them for a soak."""


@pytest.fixture(autouse=True)
def nothing_was_swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A deadlock that a sweeper logs and tries again is a defect all the same."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


def status(call: Callable[..., Any], *arguments: Any) -> int:
    code: int = call(*arguments).status_code
    return code


def in_turn(*steps: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        for step in steps:
            step()

    return run


def batch_of(cast: Cast, rows: int) -> Any:
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, rows + 1)]))
    run_control()
    return batch


def bring_to_its_end(worker: Worker) -> None:
    """Whatever state a race has left things in, time and a worker finish them."""
    for _ in range(3):
        let_leases_run_out()
        let_grace_pass()
        let_back_off_pass()
        sweep_leases()
        close_due_batches()
        run_control()
        worker.answer_all()
        run_control()


def assert_ended(cast: Cast, batch: Any, statuses: set[str]) -> Any:
    done = retrieve(cast.alice, batch)
    assert done["status"] in statuses, done
    assert done["held_reason"] is None
    assert accounts_agree(batch), accounts(batch)
    files = [done[name] for name in ("output_file_id", "error_file_id") if done[name]]
    answered = [row["custom_id"] for file_id in files for row in read_file(cast.alice, file_id)]
    assert sorted(answered) == sorted(f"row-{number}" for number in range(1, done["request_counts"]["total"] + 1))
    return done


def test_a_segment_sent_by_two_threads_at_once_is_stored_once(cast: Cast) -> None:
    batch = batch_of(cast, 4 * ROUNDS)
    grant = Worker().lease()
    for number in range(ROUNDS):
        rows = [result(line) for line in range(4 * number + 1, 4 * number + 5)]
        answers = at_once(*[partial(status, grant.put, number, rows)] * 3)
        assert sorted(answers) == [200, 200, 201]
    assert count("batches_segment") == count("metering_usageevent") == ROUNDS
    assert grant.complete().status_code == 200
    run_control()
    assert assert_ended(cast, batch, {"completed"})["request_counts"]["completed"] == 4 * ROUNDS


def test_two_different_segments_of_one_number_are_stored_once(cast: Cast) -> None:
    batch = batch_of(cast, 2 * ROUNDS)
    grant = Worker().lease()
    for number in range(ROUNDS):
        one, other = [[result(2 * number + offset)] for offset in (1, 2)]
        answers = at_once(partial(status, grant.put, number, one), partial(status, grant.put, number, other))
        assert sorted(answers) == [201, 409]
    assert retrieve(cast.alice, batch)["request_counts"]["completed"] == ROUNDS
    assert accounts_agree(batch), accounts(batch)


def _put_all(grant: Grant) -> Callable[[], list[int]]:
    lines = [row["line"] for row in grant.rows()]

    def run() -> list[int]:
        return [grant.put(number, [result(line)]).status_code for number, line in enumerate(lines)]

    return run


@pytest.mark.parametrize("event", ["cancel", "expire", "sweep", "fence"])
def test_segments_that_race_with_the_end_of_their_lease_count_once_or_not(
    cast: Cast, settings: Settings, event: str
) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 3
    settings.BATCH_CANCEL_GRACE_SECONDS = 0 if event == "fence" else 10
    for round_number in range(ROUNDS):
        batch = batch_of(cast, 12)
        workers = [Worker(name=f"node-{round_number}-{number}") for number in range(3)]
        grants = [worker.lease() for worker in workers]
        cancel_it = partial(cancel, cast.alice, batch)
        events = {
            "cancel": in_turn(cancel_it),
            "fence": in_turn(cancel_it, close_due_batches),
            "expire": in_turn(partial(let_window_close, batch), close_due_batches, close_due_batches),
            "sweep": in_turn(let_leases_run_out, sweep_leases),
        }
        *answers, _, _ = at_once(*map(_put_all, grants), events[event], events[event])
        assert {status for statuses in answers for status in statuses} <= {201, 409}
        bring_to_its_end(workers[0])
        assert_ended(cast, batch, {"cancelled"} if event in ("cancel", "fence") else {"expired", "completed"})


def test_cancelling_while_the_last_segment_arrives_ends_the_batch_either_way(cast: Cast) -> None:
    for number in range(ROUNDS):
        batch = batch_of(cast, 2)
        worker = Worker(name=f"node-{number}")
        grant = worker.lease()
        grant.put(0, [result(1)])
        (stored, cancelled) = at_once(
            partial(status, grant.put, 1, [result(2)]), partial(status, cancel, cast.alice, batch)
        )
        assert (stored, cancelled) in [(201, 200), (201, 409)]
        bring_to_its_end(worker)
        done = assert_ended(cast, batch, {"completed" if cancelled == 409 else "cancelled"})
        assert done["request_counts"]["completed"] == 2


def test_cancelling_while_the_file_is_validated_ends_cancelled(cast: Cast) -> None:
    worker = Worker()
    for _ in range(ROUNDS):
        batch = submit(cast.alice, jsonl([line(number) for number in range(1, 200)]))
        at_once(run_control, partial(cancel, cast.alice, batch))
        bring_to_its_end(worker)
        assert_ended(cast, batch, {"cancelled"})
    assert {lease.state for lease in leases()} <= {"cancelled"}


def test_several_closers_write_one_pair_of_files(cast: Cast) -> None:
    worker = Worker()
    for _ in range(ROUNDS):
        batch = batch_of(cast, 6)
        at_once(*[partial(cancel, cast.alice, batch)] * 2, *[close_due_batches] * 2)
        bring_to_its_end(worker)
        assert_ended(cast, batch, {"cancelled"})
    assert count("files_storedfile") == 2 * ROUNDS
    assert len(leases("batch_assembly")) == ROUNDS


def test_concurrent_claims_take_each_lease_once(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 1
    batch_of(cast, 24)

    def claim_some() -> list[Any]:
        claims = [claim_lease(kinds=["batch_shard"], models=[MODEL], node_id=None) for _ in range(10)]
        return [lease.id for lease in claims if lease is not None]

    taken = [lease for claimed in at_once(*[claim_some] * 4) for lease in claimed]
    assert len(taken) == len(set(taken)) == 24
    assert {lease.epoch for lease in leases()} == {1}


def test_control_workers_side_by_side_do_each_piece_once(cast: Cast) -> None:
    batches = [submit(cast.alice, jsonl([line(1), line(2)])) for _ in range(6)]
    at_once(*[run_control] * 3)
    assert [retrieve(cast.alice, batch)["status"] for batch in batches] == ["in_progress"] * 6
    assert count("batches_row") == 12
    assert [lease.attempts for lease in leases("batch_validation")] == [0] * 6


def test_a_validation_that_was_given_to_another_leaves_rows_once(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, 300)]))

    def lose_it() -> None:
        while not change("UPDATE fleet_lease SET leased_until = now() - interval '1 hour' WHERE state = 'leased'"):
            pass
        sweep_leases()
        let_back_off_pass()
        run_control()

    at_once(run_control, lose_it)
    bring_to_its_end(Worker())
    assert count("batches_row") == 299
    assert_ended(cast, batch, {"completed"})
