"""What is counted is counted while Redis is away, too."""

from typing import Any

import pytest
import redis
from django.core.cache import caches

from common import cache as module
from common.cache import FallbackCache
from tests.support.threads import at_once


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> FallbackCache:
    """A cache that finds its Redis."""
    monkeypatch.setattr(module, "_quiet", module._Quiet())
    found = caches["default"]
    assert isinstance(found, FallbackCache)
    found.delete("counter")
    return found


def missing(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """Have Redis refuse every connection."""

    def refuse(self: Any, *arguments: Any, **options: Any) -> None:
        calls.append("asked")
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(redis.Connection, "connect", refuse)
    monkeypatch.setattr(redis.ConnectionPool, "get_connection", refuse)


def test_with_redis_all_processes_share_what_is_counted(cache: FallbackCache) -> None:
    assert cache.add("counter", [1], 60)
    assert not cache.add("counter", [2], 60)
    assert at_once(lambda: caches["default"].get("counter")) == [[1]]
    assert cache._local.get("counter") is None
    cache.set("counter", [2], 60)
    assert cache.get("counter") == [2]
    assert (cache.delete("counter"), cache.get("counter", "none")) == (True, "none")


def test_without_redis_the_process_counts_by_itself(cache: FallbackCache, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    missing(monkeypatch, calls)
    assert cache.add("counter", [1], 60)
    assert not cache.add("counter", [2], 60)
    cache.set("counter", [2], 60)
    assert at_once(lambda: caches["default"].get("counter")) == [[2]]
    assert (cache.delete("counter"), cache.get("counter", "none")) == (True, "none")
    assert calls == ["asked"]  # once: a mute Redis would cost its timeout at every call
