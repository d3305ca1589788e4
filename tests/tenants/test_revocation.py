"""A key that ends while many clients use it, on a real server of several processes that all remember it."""

import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic

import pytest

from tests.support.cast import Cast, Member
from tests.support.facts import query_owner
from tests.support.keys import CHANGES
from tests.support.server import Server, start_server
from tests.support.waiting import wait_until

WORKERS = 2
SECOND = 1.0
_LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hone-keys'"
_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hone-keys'"


@pytest.fixture(scope="module")
def processes(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two processes."""
    with start_server(tmp_path_factory.mktemp("server"), workers=WORKERS) as server:
        yield server


@dataclass
class Hammer:
    """Clients that call without a pause, until each has called once more a second after the change."""

    server: Server
    member: Member
    calls: list[tuple[float, int]] = field(default_factory=list)
    """When each call began, and the status of its answer."""
    changed_at: float | None = None

    def run(self, *, clients: int, change: Callable[[], object]) -> list[int]:
        """Change when all are at it; the statuses of the calls that began a second later."""
        before = query_owner(_LISTENERS)[0][0]
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(self._client) for _ in range(clients)]
            try:
                wait_until(lambda: len(self.calls) >= 3 * clients, seconds=60)
                wait_until(lambda: query_owner(_LISTENERS)[0][0] >= min(before + WORKERS, WORKERS), seconds=10)
                assert {status for _, status in self.calls} == {200}
                change()
            finally:
                self.changed_at = monotonic()
            for client in running:
                client.result(60)
        return [status for began, status in self.calls if began >= self.changed_at + SECOND]

    def _client(self) -> None:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        headers = {"Authorization": f"Bearer {self.member.token}"}
        began = 0.0
        while self.changed_at is None or began < self.changed_at + SECOND:
            began = monotonic()
            connection.request("GET", "/v1/models", headers=headers)
            answer = connection.getresponse()
            answer.read()
            self.calls.append((began, answer.status))
        connection.close()


def test_a_revoked_key_that_a_hundred_clients_use(processes: Server, cast: Cast) -> None:
    change, status, _ = CHANGES["revoked"]
    late = Hammer(processes, cast.alice).run(clients=100, change=lambda: change(cast.alice))
    assert len(late) >= 100
    assert set(late) == {status}


@pytest.mark.parametrize("name", ["suspended", "archived", "narrowed"])
def test_every_process_hears_of_a_change(processes: Server, cast: Cast, name: str) -> None:
    change, status, _ = CHANGES[name]
    late = Hammer(processes, cast.alice).run(clients=16, change=lambda: change(cast.alice))
    assert len(late) >= 16
    assert set(late) == {status}


def test_a_change_while_the_connections_that_tell_of_it_are_cut(processes: Server, cast: Cast) -> None:
    change, status, _ = CHANGES["revoked"]

    def cut_and_change() -> None:
        query_owner(_CUT)
        change(cast.alice)
        query_owner(_CUT)

    late = Hammer(processes, cast.alice).run(clients=16, change=cut_and_change)
    assert len(late) >= 16
    assert set(late) == {status}
