"""Celery as the doorbell: a message says that there is work, never what it is, and may be lost.

Called after the commit that created the work. A broker that is away costs a few seconds (agents poll, the
sweeper rings again), so failures are logged and swallowed.
"""

import time
from dataclasses import dataclass
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from kombu import Exchange
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from inference_workers.protocol import DOORBELL_EXCHANGE, DOORBELL_TASK

logger = structlog.get_logger(__name__)

CONTROL_TASK = "fleet.tasks.run_control_work"
MESSAGE_SECONDS = 60
QUIET_SECONDS = 5

# Agents bind with the exchange's name as the key, because on Redis the key is part of the channel's name.
_BELL: dict[str, Any] = {
    "exchange": DOORBELL_EXCHANGE,
    "exchange_type": "fanout",
    "routing_key": DOORBELL_EXCHANGE,
    "declare": [Exchange(DOORBELL_EXCHANGE, type="fanout", durable=False)],
}


@dataclass
class _Quiet:
    """Until when, in monotonic seconds, this process leaves the broker alone."""

    until: float = 0


_quiet = _Quiet()


def ring_after_commit(*, model: str) -> None:
    """Wake those who can do work for ``model``; the control plane's own workers when it is empty."""
    transaction.on_commit(lambda: ring(model=model), robust=True)


def ring(*, model: str) -> None:
    """Ring now, unless the broker has failed a moment ago: a mute one costs seconds at every try."""
    if model:
        _send(DOORBELL_TASK, kwargs={"model": model}, **_BELL)  # heard now or never
    else:
        _send(CONTROL_TASK, expires=MESSAGE_SECONDS)


def hurry_after_commit(*, task: str) -> None:
    """Have a control worker run a periodic task as soon as it can, instead of at its next turn."""
    transaction.on_commit(lambda: _send(task, expires=MESSAGE_SECONDS), robust=True)


def _send(task: str, **options: Any) -> None:
    if time.monotonic() < _quiet.until:
        return
    try:
        current_app.send_task(task, **options)
    except (OperationalError, RedisError, OSError) as error:
        _quiet.until = time.monotonic() + QUIET_SECONDS
        logger.warning("doorbell not rung", task=task, error=str(error))
