"""What a process remembers of keys: bounded, short, and only while somebody listens."""

from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connections

from common.database import SYSTEM
from tenants import key_cache
from tenants.key_cache import BELIEVED_SECONDS, KeyCache


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved."""
    time = [1_000.0]
    monkeypatch.setattr(key_cache, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def cache(clock: list[float]) -> KeyCache[str]:
    """Room for three keys; a and b are one organisation's, c is another's."""
    cache = KeyCache[str](max_age=10, max_keys=3)
    for name, owner in {"a": "acme", "b": "acme", "c": "zeta"}.items():
        cache.put(name, name.upper(), organization_id=owner, ticket=cache.ticket())
    cache.believe(since=clock[0])
    return cache


def known(cache: KeyCache[str]) -> str:
    return "".join(name for name in "abcd" if cache.get(name) is not None)


def test_what_is_remembered_is_served(cache: KeyCache[str]) -> None:
    assert [cache.get(name) for name in "abcd"] == ["A", "B", "C", None]


def test_a_key_that_changes_is_forgotten_alone(cache: KeyCache[str]) -> None:
    cache.forget("key:a")
    assert known(cache) == "bc"


def test_an_organisation_that_changes_takes_its_keys_along(cache: KeyCache[str]) -> None:
    cache.forget("organization:acme")
    assert known(cache) == "c"


@pytest.mark.parametrize("message", ["key:a", "key:d", "organization:zeta"])
def test_what_was_read_before_a_change_is_not_kept(cache: KeyCache[str], message: str) -> None:
    ticket = cache.ticket()
    cache.forget(message)
    cache.put("a", "as it was", organization_id="acme", ticket=ticket)
    assert cache.get("a") != "as it was"


def test_the_key_that_was_not_used_for_longest_makes_room(cache: KeyCache[str]) -> None:
    assert cache.get("a") == "A"
    cache.put("d", "D", organization_id="zeta", ticket=cache.ticket())
    assert known(cache) == "acd"


def test_nothing_grows_old(cache: KeyCache[str], clock: list[float]) -> None:
    clock[0] += 9.9
    cache.believe(since=clock[0])
    assert known(cache) == "abc"
    clock[0] += 0.1
    assert known(cache) == ""


def test_nothing_is_believed_for_longer_than_a_message_may_take(cache: KeyCache[str], clock: list[float]) -> None:
    assert BELIEVED_SECONDS < 1
    clock[0] += BELIEVED_SECONDS * 0.99
    assert known(cache) == "abc"
    clock[0] += BELIEVED_SECONDS * 0.01
    assert known(cache) == ""
    cache.believe(since=clock[0])  # the thread was late, the connection is the same one: no message is missing
    assert known(cache) == "abc"


def test_nothing_is_served_while_nobody_listens(cache: KeyCache[str], clock: list[float]) -> None:
    cache.doubt()
    assert known(cache) == ""


def test_nothing_from_before_a_new_connection_is_served(cache: KeyCache[str], clock: list[float]) -> None:
    ticket = cache.ticket()
    cache.forget_all()
    cache.put("a", "as it was", organization_id="acme", ticket=ticket)
    cache.believe(since=clock[0])
    assert known(cache) == ""


def test_a_message_of_before_a_round_trip_has_arrived_with_its_answer(database: None) -> None:
    # Of PostgreSQL and psycopg; the whole cache rests on it.
    def connect() -> psycopg.Connection[Any]:
        options: dict[str, Any] = connections[SYSTEM].get_connection_params() | {"autocommit": True}
        return psycopg.connect(**options)

    with connect() as listening, connect() as changing:
        listening.execute("LISTEN hone_test")
        for number in range(200):
            changing.execute("SELECT pg_notify('hone_test', %s)", [str(number)])
            listening.execute("SELECT 1")
            started = monotonic()
            assert [message.payload for message in listening.notifies(timeout=0)] == [str(number)]
            assert monotonic() - started < 1
