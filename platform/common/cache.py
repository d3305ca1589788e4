"""Redis as a cache for counters that must not vanish with it: what limits somebody never turns into no limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError

logger = structlog.get_logger(__name__)

QUIET_SECONDS = 5
"""How long a Redis that has failed is left alone: a mute one costs its timeout at every call."""

T = TypeVar("T")


@dataclass
class _Quiet:
    """Until when, in monotonic seconds, this process leaves Redis alone."""

    until: float = 0


_quiet = _Quiet()


class FallbackCache(RedisCache):
    """Django's Redis cache, replaced by this process's own memory while Redis is away.

    A limit then holds per process instead of for all together, and starts from zero; it never ceases to hold.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._local = LocMemCache("fallback", {**params, "OPTIONS": {"MAX_ENTRIES": 100_000}})

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Set what is not there yet; whether it was not."""
        return self._either(super().add, self._local.add, key, value, timeout, version)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The value, or the default."""
        return self._either(super().get, self._local.get, key, default, version)

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Set."""
        self._either(super().set, self._local.set, key, value, timeout, version)

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete; whether it was there."""
        return self._either(super().delete, self._local.delete, key, version)

    def _either(self, there: Callable[..., T], here: Callable[..., T], *arguments: Any) -> T:
        if time.monotonic() >= _quiet.until:
            try:
                return there(*arguments)
            except (RedisError, OSError) as error:
                _quiet.until = time.monotonic() + QUIET_SECONDS
                logger.warning("redis is away: limits hold per process", error=type(error).__name__)
        return here(*arguments)
