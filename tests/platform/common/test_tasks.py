"""Periodic tasks run one at a time, and one failing piece of their work keeps no other."""

import pytest
from django.db import connections

from common.database import SYSTEM
from common.tasks import attempt, single_flight
from tests.support.tables import query
from tests.support.threads import at_once

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


def test_a_task_that_runs_already_is_not_run_again(database: None) -> None:
    runs: list[str] = []

    @single_flight
    def task() -> None:
        runs.append("outer")
        at_once(task)

    task()
    assert runs == ["outer"]


def test_a_task_can_run_again_when_it_is_done(database: None) -> None:
    runs: list[int] = []

    @single_flight
    def task() -> None:
        runs.append(1)

    task()
    at_once(task)
    assert len(runs) == 2
    assert query(LOCKS) == [(0,)]


def test_a_task_that_fails_lets_go(database: None) -> None:
    @single_flight
    def task() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        task()
    assert query(LOCKS) == [(0,)]


def test_a_process_that_dies_lets_go(database: None) -> None:
    @single_flight
    def task() -> None:
        connections[SYSTEM].close()  # what PostgreSQL sees of a process that dies

    task()
    assert query(LOCKS) == [(0,)]


def test_two_tasks_do_not_wait_for_each_other(database: None) -> None:
    runs: list[str] = []

    @single_flight
    def one() -> None:
        runs.append("one")

    @single_flight
    def other() -> None:
        at_once(one)
        runs.append("other")

    other()
    assert runs == ["one", "other"]


def test_a_piece_of_work_that_fails_is_told_and_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def work(number: int, *, divisor: int) -> float:
        return number / divisor

    assert [attempt(work, 6, divisor=divisor) for divisor in (0, 3)] == [False, True]
    (told,) = caplog.records
    assert told.exc_info is not None
    assert ("periodic work failed" in told.getMessage(), told.exc_info[0]) == (True, ZeroDivisionError)
