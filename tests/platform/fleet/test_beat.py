"""Beat rings when there is a broker, and works when there is none."""

import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import structlog
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import schedule
from redis import Redis

from fleet.beat import Scheduler
from tests.services import running
from tests.support.cast import Cast
from tests.support.facts import leases, let_leases_run_out
from tests.support.rows import jsonl, line, retrieve, submit
from tests.support.worker import Worker, run_control


@pytest.fixture
def broker() -> Iterator[Redis]:
    with Redis.from_url(running().environment()["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def no_broker() -> Iterator[str]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}/0"


def beat_of(broker_url: str) -> tuple[Scheduler, ScheduleEntry]:
    """A beat with this broker, and its entry of the sweeper."""
    app = Celery("beat-of-a-test", set_as_current=False)
    app.config_from_object("django.conf:settings", namespace="CELERY")
    app.conf.update(broker_url=broker_url)
    app.finalize()
    every = schedule(timedelta(seconds=2))
    return Scheduler(app, lazy=True), ScheduleEntry("sweep-leases", "fleet.tasks.sweep", schedule=every, app=app)


def test_with_a_broker_beat_only_sends(cast: Cast, model: None, broker: Redis) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    broker.flushdb()
    beat, entry = beat_of(running().environment()["REDIS_URL"])

    beat.apply_async(entry, advance=False)

    assert broker.llen("hone.control") == 1
    assert retrieve(cast.alice, batch)["status"] == "validating"


def test_without_a_broker_beat_does_the_control_planes_work(cast: Cast, model: None, no_broker: str) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    beat, entry = beat_of(no_broker)

    beat.apply_async(entry, advance=False)
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    Worker().answer_all()
    beat.apply_async(entry, advance=False)

    assert retrieve(cast.alice, batch)["status"] == "completed"


def test_without_a_broker_beat_frees_the_leases_of_the_dead(cast: Cast, model: None, no_broker: str) -> None:
    submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().lease()
    let_leases_run_out()
    beat, entry = beat_of(no_broker)

    beat.apply_async(entry, advance=False)

    assert [(lease.state, lease.attempts) for lease in leases()] == [("waiting", 1)]


def test_a_broker_that_has_failed_is_left_alone_for_a_while(cast: Cast, broker: Redis) -> None:
    beat, entry = beat_of(running().environment()["REDIS_URL"])
    broker.config_set("maxmemory", "1")  # it refuses every message
    try:
        with structlog.testing.capture_logs() as logs:
            beat.apply_async(entry, advance=False)
            beat.apply_async(entry, advance=False)
    finally:
        broker.config_set("maxmemory", "0")
    assert [log["event"] for log in logs] == ["the broker is away: beat does the work itself"]
    assert broker.llen("hone.control") == 0

    beat._quiet_until = time.monotonic()
    beat.apply_async(entry, advance=False)
    assert broker.llen("hone.control") == 1
