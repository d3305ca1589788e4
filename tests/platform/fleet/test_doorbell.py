"""The bell is heard through a real broker, and costs nothing where there is none."""

import socket
import time
from collections.abc import Iterator
from queue import Queue

import orjson
import pytest
import structlog
from celery import Celery
from django.db import transaction
from redis import Redis

from fleet import doorbell
from fleet.doorbell import CONTROL_TASK, hurry_after_commit, ring
from inference_workers.doorbell import Doorbell
from inference_workers.protocol import DOORBELL_TASK
from tests.services import running


@pytest.fixture(autouse=True)
def no_failure_before() -> Iterator[None]:
    """The process remembers for a while that a broker has failed."""
    doorbell._quiet.until = 0
    yield
    doorbell._quiet.until = 0


@pytest.fixture
def broker() -> Iterator[Redis]:
    with Redis.from_url(running().environment()["REDIS_URL"]) as client:
        client.flushdb()
        yield client
        client.flushdb()


@pytest.fixture
def broker_is_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our Celery settings, with a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        app = Celery("away", set_as_current=False)
        app.config_from_object("django.conf:settings", namespace="CELERY")
        app.conf.update(broker_url=f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        monkeypatch.setattr("fleet.doorbell.current_app", app)
        yield


def test_every_agent_hears_which_model_has_work(broker: Redis) -> None:
    heard: list[Queue[str]] = [Queue(), Queue()]
    agents = [
        Doorbell(running().environment()["REDIS_URL"], f"node-{number}", rung.put) for number, rung in enumerate(heard)
    ]
    for agent in agents:
        agent.start()
    try:
        _wait_for_listeners(broker, len(agents))
        ring(model="little")
        assert [rung.get(timeout=10) for rung in heard] == ["little", "little"]
    finally:
        for agent in agents:
            agent.stop()


def test_control_work_waits_in_the_queue_of_the_control_workers(broker: Redis) -> None:
    ring(model="")
    (message,) = broker.lrange("hone.control", 0, -1)
    assert orjson.loads(message)["headers"]["task"] == CONTROL_TASK


def test_a_periodic_task_is_hurried_after_the_commit_and_not_before(database: None, broker: Redis) -> None:
    with transaction.atomic():
        hurry_after_commit(task="fleet.tasks.sweep")
        assert broker.llen("hone.control") == 0
    (message,) = broker.lrange("hone.control", 0, -1)
    assert orjson.loads(message)["headers"]["task"] == "fleet.tasks.sweep"


def test_a_broker_that_is_away_costs_no_time_and_no_error(broker_is_away: None) -> None:
    started = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        ring(model="little")
    assert time.monotonic() - started < 2
    assert [(entry["event"], entry["task"]) for entry in logs] == [("doorbell not rung", DOORBELL_TASK)]


def test_a_broker_without_memory_is_only_a_warning_and_left_alone_for_a_while(broker: Redis) -> None:
    broker.config_set("maxmemory", "1")
    try:
        with structlog.testing.capture_logs() as logs:
            ring(model="")
            ring(model="")
    finally:
        broker.config_set("maxmemory", "0")
    assert [entry["event"] for entry in logs] == ["doorbell not rung"]
    doorbell._quiet.until = time.monotonic()
    ring(model="")
    assert broker.llen("hone.control") == 1


def _wait_for_listeners(broker: Redis, number: int) -> None:
    deadline = time.monotonic() + 10
    while len(broker.client_list(_type="pubsub")) < number:
        assert time.monotonic() < deadline, "the agents' doorbells do not listen"
        time.sleep(0.05)
