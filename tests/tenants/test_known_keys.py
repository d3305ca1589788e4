"""A process that remembers keys: what it saves, and that a change of any kind reaches it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from common.database import SYSTEM
from tenants import key_link, known_keys
from tenants.key_link import KeyLink
from tenants.known_keys import RememberedKey
from tenants.models import ApiKey
from tenants.scope import tenant_scope
from tenants.services import create_api_key, revoke_key
from tests.support.cast import ApiClient, Cast, Member
from tests.support.facts import change, query_owner
from tests.support.keys import CHANGES, archive_project, key_of, refusal, update_key
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECOND = 1.0


ANSWER = 5
"""Statements that answer ``GET /v1/models`` itself: scope, the project's policy, base models, tuned ones, aliases."""


@pytest.fixture
def link(cast: Cast, settings: Any) -> Iterator[KeyLink[RememberedKey]]:
    """This process remembers keys, Alice's and Charlie's among them."""
    settings.KEY_CACHE_SECONDS = 60
    link = known_keys.link()
    assert link is not None
    wait_until(lambda: remembers(cast.alice) and remembers(cast.charlie))
    yield link
    known_keys.close()


def remembers(member: Member) -> bool:
    assert member.client.get("/v1/models").status_code == 200
    return statements_of(lambda: member.client.get("/v1/models")) == ANSWER


def statements_of(call: Callable[[], Any]) -> int:
    """How many statements a call sends, whatever the role."""
    sent: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.append(sql)
        return execute(sql, params, many, context)

    with ExitStack() as stack:
        for alias in ("default", SYSTEM):
            stack.enter_context(connections[alias].execute_wrapper(note))
        call()
    return len(sent)


def wait_for_refusal(member: Member, code: str) -> None:
    """Every call that begins a second from now, or later, is refused."""
    deadline = monotonic() + SECOND
    began = monotonic()
    while refusal(member.client) != code:
        assert began < deadline
        began = monotonic()


def test_a_request_with_a_known_key_asks_nothing_about_it(cast: Cast, settings: Any, link: Any) -> None:
    assert [statements_of(lambda: cast.alice.client.get("/v1/models")) for _ in range(3)] == [ANSWER] * 3
    settings.KEY_CACHE_SECONDS = 0
    # The key and, once a minute, its use.
    assert [statements_of(lambda: cast.alice.client.get("/v1/models")) for _ in range(3)] == [
        ANSWER + 2,
        ANSWER + 1,
        ANSWER + 1,
    ]


def test_a_wrong_secret_of_a_known_key_costs_nothing(cast: Cast, link: Any) -> None:
    wrong = ApiClient(cast.alice.token[:-1] + format(15 - int(cast.alice.token[-1], 16), "x"))
    assert refusal(wrong) == "invalid_api_key"
    assert statements_of(lambda: wrong.get("/v1/models")) == 0


def test_a_key_that_does_not_exist_is_not_remembered(cast: Cast, link: KeyLink[RememberedKey]) -> None:
    unknown = ApiClient("hone_sk_0123456789abcdef_" + "0" * 64)
    assert [statements_of(lambda: unknown.get("/v1/models")) for _ in range(2)] == [1, 1]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_effective_within_a_second(cast: Cast, link: Any, name: str) -> None:
    make, _, code = CHANGES[name]
    make(cast.alice)
    wait_for_refusal(cast.alice, code)
    assert refusal(cast.charlie.client) is None


def test_nobody_elses_keys_are_read_again_for_it(cast: Cast, link: Any) -> None:
    revoke_key(key=key_of(cast.alice), actor="system")
    wait_for_refusal(cast.alice, "invalid_api_key")
    assert statements_of(lambda: cast.charlie.client.get("/v1/models")) == ANSWER


def test_a_transaction_that_is_rolled_back_tells_nobody(cast: Cast, link: KeyLink[RememberedKey]) -> None:
    ticket = link.cache.ticket()
    with tenant_scope(cast.alice.organization.id):
        ApiKey.objects.update(revoked_at=Now())
        transaction.set_rollback(True)
    assert changes_until_another(cast, link) == ticket + 1


def test_making_and_using_keys_is_no_news(cast: Cast, link: KeyLink[RememberedKey]) -> None:
    ticket = link.cache.ticket()
    create_api_key(project=cast.alice.project, name="another", actor="system")
    update_key(cast.alice, last_used_at=Now())
    assert changes_until_another(cast, link) == ticket + 1


def changes_until_another(cast: Cast, link: KeyLink[RememberedKey]) -> int:
    """Messages come in order: once that of Charlie's archived project is there, all earlier ones are."""
    archive_project(cast.charlie)
    wait_for_refusal(cast.charlie, "organization_inactive")
    return link.cache.ticket()


def test_a_known_key_expires_on_time(cast: Cast, link: Any) -> None:
    update_key(cast.alice, expires_at=Now() + timedelta(seconds=3))
    wait_until(lambda: remembers(cast.alice))
    wait_until(lambda: refusal(cast.alice.client) == "invalid_api_key")
    assert query_owner("SELECT expires_at <= now() FROM tenants_apikey WHERE id = %s", key_of(cast.alice).id) == [
        (True,)
    ]


def test_requests_do_not_share_their_objects(cast: Cast, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenants import access

    seen = []
    monkeypatch.setattr(access, "note_key_use", lambda *, key: seen.append(key))
    cast.alice.client.get("/v1/models")
    seen[0].scopes = []
    seen[0].organization.status = "suspended"
    seen[0].project.status = "archived"
    assert refusal(cast.alice.client) is None
    assert (seen[1].organization.status, seen[1].project.status) == ("active", "active")


def test_without_a_connection_every_key_is_looked_up(
    cast: Cast, link: KeyLink[RememberedKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    public_id = cast.alice.token.split("_")[2]
    known = link.cache.get(public_id)
    assert known is not None

    def refuse() -> psycopg.Connection[Any]:
        raise psycopg.OperationalError("nobody there")

    with monkeypatch.context() as away:
        away.setattr(link, "_connect", refuse)
        query_owner("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hone-keys'")
        wait_until(lambda: link.cache.get(public_id) is None)
        assert statements_of(lambda: cast.alice.client.get("/v1/models")) == ANSWER + 1
        assert link.cache.get(public_id) is None
        revoke_key(key=key_of(cast.alice), actor="system")
        assert refusal(cast.alice.client) == "invalid_api_key"
        archive_project(cast.charlie)  # nobody is there to be told, and nobody asks meanwhile

    def is_there_again() -> bool:
        link.cache.put("another", known, organization_id="", ticket=link.cache.ticket())
        return link.cache.get("another") is not None

    wait_until(is_there_again)
    assert refusal(cast.charlie.client) == "organization_inactive"


def last_use(member: Member) -> Any:
    return key_of(member).last_used_at


def forget_uses() -> None:
    """The next request of this process makes another link."""
    known_keys.close()
    change("UPDATE tenants_apikey SET last_used_at = NULL")


def test_uses_are_written_behind_the_requests(cast: Cast, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_uses()
    monkeypatch.setattr(key_link, "WRITE_SECONDS", 0)
    cast.alice.client.get("/v1/models")
    wait_until(lambda: last_use(cast.alice) is not None, seconds=5)
    (recent,) = query_owner("SELECT now() - last_used_at < interval '5 s' FROM tenants_apikey WHERE id = %s",
                            key_of(cast.alice).id)  # fmt: skip
    assert recent == (True,)
    assert last_use(cast.charlie) is None


def test_uses_are_written_at_the_end_of_a_process(cast: Cast, link: Any) -> None:
    change("UPDATE tenants_apikey SET last_used_at = now() - interval '1 day' WHERE public_id <> %s",
           cast.charlie.token.split("_")[2])  # fmt: skip
    change("UPDATE tenants_apikey SET last_used_at = now() - interval '30 s' WHERE public_id = %s",
           cast.charlie.token.split("_")[2])  # fmt: skip
    before = last_use(cast.charlie)
    for member in (cast.alice, cast.charlie):
        assert refusal(member.client) is None
    known_keys.close()
    assert query_owner("SELECT now() - last_used_at < interval '10 s' FROM tenants_apikey WHERE id = %s",
                       key_of(cast.alice).id) == [(True,)]  # fmt: skip
    assert last_use(cast.charlie) == before  # to the minute


def test_a_use_of_a_key_that_somebody_holds_is_written_later(
    cast: Cast, link: KeyLink[RememberedKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_uses()
    monkeypatch.setattr(key_link, "WRITE_SECONDS", 0)
    with tenant_scope(cast.alice.organization.id), connection.cursor() as cursor:
        cursor.execute("SELECT FROM tenants_apikey FOR UPDATE")
        cast.alice.client.get("/v1/models")
        cast.charlie.client.get("/v1/models")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hone-keys' AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: query_owner(waiting) == [(1,)])
        wait_until(lambda: query_owner(waiting) == [(0,)])  # it has given up, or gives up again
        assert last_use(cast.alice) is None
    wait_until(lambda: last_use(cast.alice) is not None and last_use(cast.charlie) is not None)


_FORKING = """
import os, sys, time
sys.path[:0] = ["platform"]
import django
django.setup()
from tenants import known_keys
parents = known_keys.link()
def is_heard(link):
    link.cache.put("a", "A", organization_id="acme", ticket=link.cache.ticket())
    return link.cache.get("a") == "A"
def wait(link):
    give_up_at = time.monotonic() + 10
    while not is_heard(link):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
wait(parents)
child = os.fork()
if child == 0:
    own = known_keys.link()
    assert own is not parents
    wait(own)
    known_keys.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert known_keys.link() is parents
wait(parents)
"""


def test_a_forked_process_listens_for_itself(database: None) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings.test", "HONE_KEY_CACHE_SECONDS": "10"}
    command = [sys.executable, "-c", _FORKING]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
