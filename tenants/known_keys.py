"""The keys that this process knows: its cache and its link, made with the first key that is looked up."""

import atexit
import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from time import monotonic
from typing import Any, cast

import psycopg
from django.conf import settings
from django.db import connections

from common.database import SYSTEM
from tenants.key_cache import KeyCache
from tenants.key_link import KeyLink
from tenants.models import ApiKey


@dataclass(frozen=True)
class FoundKey:
    """A key with its organisation and project, whatever their states, and the time to judge them by."""

    key: ApiKey
    now: datetime
    """PostgreSQL's time."""


@dataclass(frozen=True)
class RememberedKey:
    """A key as it was read; requests get copies, since they hand their objects on."""

    key: ApiKey
    read_at: datetime
    """PostgreSQL's time of reading."""
    asked_at: float
    """This process's, from :func:`time.monotonic`, just before: so a key rather expires early than late."""

    def recall(self) -> FoundKey:
        """The key for one request."""
        key = copy(self.key)
        key.organization = copy(self.key.organization)
        key.project = copy(self.key.project)
        return FoundKey(key, self.read_at + timedelta(seconds=monotonic() - self.asked_at))


@dataclass
class _Process:
    """What a forked process has no part in: threads and connections stay with the parent."""

    lock: Lock = field(default_factory=Lock)
    link: KeyLink[RememberedKey] | None = None


_process = _Process()


def link() -> KeyLink[RememberedKey] | None:
    """This process's link, or None where ``KEY_CACHE_SECONDS`` is 0."""
    if not settings.KEY_CACHE_SECONDS:
        return None
    with _process.lock:
        if _process.link is None:
            cache = KeyCache[RememberedKey](max_age=settings.KEY_CACHE_SECONDS)
            _process.link = KeyLink(cache=cache, connect=_connect)
            _process.link.start()
        return _process.link


def close() -> None:
    """End the link, which writes down what it still knows; the next look-up makes another one."""
    with _process.lock:
        closing, _process.link = _process.link, None
    if closing is not None:
        closing.close()


def _connect() -> psycopg.Connection[Any]:
    options = connections[SYSTEM].get_connection_params() | {
        "application_name": "hone-keys",
        "autocommit": True,
        "tcp_user_timeout": 5_000,  # milliseconds, after which a silent connection is a lost one
    }
    return cast("Callable[..., psycopg.Connection[Any]]", psycopg.connect)(**options)


def _leave_to_the_parent() -> None:
    _process.lock = Lock()
    _process.link = None


# With gunicorn's preload a key could have been looked up before the workers are forked.
os.register_at_fork(after_in_child=_leave_to_the_parent)
atexit.register(close)
