"""Hears 'there is work for model M': a Celery worker with one task, in a thread of the agent.

The control plane sends the task to a fanout exchange, so every agent hears every bell. A bell says nothing that the
agent would not find out by polling: without a broker, or while it is down or wiped, everything works, only later.

How to ring (the exchange must be declared with its type, and the key is part of the channel's name on Redis)::

    exchange = kombu.Exchange(DOORBELL_EXCHANGE, type="fanout", durable=False)
    app.send_task(DOORBELL_TASK, kwargs={"model": model}, exchange=exchange, exchange_type="fanout",
                  routing_key=DOORBELL_EXCHANGE, declare=[exchange], ignore_result=True, retry=False)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import structlog
from celery import Celery
from celery.worker import WorkController
from celery.worker import state as worker_state
from kombu import Exchange, Queue

from .protocol import DOORBELL_EXCHANGE, DOORBELL_TASK

RETRY_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Doorbell:
    """Calls ``ring(model)`` in a thread of its own for every bell heard between :meth:`start` and :meth:`stop`."""

    def __init__(self, broker_url: str, node: str, ring: Callable[[str], None]) -> None:
        self._app = _celery_app(broker_url, node)

        def wake(model: str) -> None:
            ring(model)

        self._app.task(name=DOORBELL_TASK, ignore_result=True, shared=False)(wake)
        self._node = node
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="doorbell", daemon=True)

    def start(self) -> None:
        """Begin to listen; a broker that is not there is waited for."""
        worker_state.should_stop = None
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it notices within seconds, and nobody needs to wait for that."""
        self._stopped.set()
        worker_state.should_stop = 0  # type: ignore[assignment]  # the stub knows only the None it begins with

    def _listen(self) -> None:
        self._app.set_current()  # of this thread: there Celery looks up the task of a message
        _QuietLogs()
        while not self._stopped.is_set():
            WorkController(
                app=self._app,
                hostname=f"doorbell@{self._node}",
                pool_cls="solo",
                concurrency=1,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                use_eventloop=False,
            ).start()
            self._stopped.wait(RETRY_SECONDS)  # it reconnects by itself and returns only when it cannot go on


def _celery_app(broker_url: str, node: str) -> Celery:
    app = Celery("inference_workers", broker=broker_url, set_as_current=False)
    exchange = Exchange(DOORBELL_EXCHANGE, type="fanout", durable=False)
    # Named after the node, not at random: the binding of an agent that was killed is used again instead of leaking.
    # A key is part of the channel's name on Redis, and Celery puts one of its own where there is none.
    queue = Queue(
        f"{DOORBELL_EXCHANGE}.{node}", exchange, routing_key=DOORBELL_EXCHANGE, durable=False, auto_delete=True
    )
    app.conf.update(
        task_queues=[queue],
        task_default_queue=queue.name,
        result_backend=None,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # there are none; otherwise Celery warns
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_connect_timeout": 5, "socket_keepalive": True},
    )
    return app


class _QuietLogs(logging.Handler):
    """Says once that the broker is lost (the agent polls) and once that it is back, not a line per attempt."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._connected = False
        for name in ("celery", "kombu"):
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.setLevel(logging.INFO)
            logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        """Celery tells of its connection only in its log."""
        if record.levelno >= logging.WARNING and self._connected:
            self._connected = False
            log.warning("doorbell_lost", reason=record.getMessage()[:300])
        elif record.name == "celery.worker.consumer.connection" and record.levelno == logging.INFO:
            self._connected = True
            log.info("doorbell_listening")
