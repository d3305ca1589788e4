"""Periodic tasks exist, and however many beats there are, each runs once at a time."""

from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from common.database import SYSTEM
from config.celery import app

SCHEDULE: dict[str, dict[str, Any]] = settings.CELERY_BEAT_SCHEDULE


@pytest.fixture(autouse=True)
def loaded() -> None:
    app.loader.import_default_modules()


@pytest.mark.parametrize("entry", sorted(SCHEDULE))
def test_a_periodic_task_exists(entry: str) -> None:
    assert SCHEDULE[entry]["task"] in app.tasks


@pytest.mark.parametrize("entry", sorted(SCHEDULE))
def test_a_periodic_task_runs_under_an_advisory_lock(database: None, entry: str) -> None:
    locks: list[int] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        locks.extend(["pg_try_advisory_lock" in sql])
        return execute(sql, params, many, context)

    with connections[SYSTEM].execute_wrapper(note):
        app.tasks[SCHEDULE[entry]["task"]].run()
    assert locks[0]
    assert locks.count(True) == 1


def test_tasks_of_ours_leave_no_result_behind() -> None:
    ours = [task for name, task in app.tasks.items() if not name.startswith("celery.")]
    assert len(ours) >= len(SCHEDULE)
    assert {task.app.conf.task_ignore_result for task in ours} == {True}
