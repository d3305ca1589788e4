"""How many statements a node's calls cost: on a machine whose CPU is its accelerator each is paid for in tokens.

Counted are all, BEGIN and COMMIT included, on both connections.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from tests.support.cast import Cast
from tests.support.rows import jsonl, line, submit
from tests.support.worker import Grant, Worker, result, run_control

SCOPE = 3
"""What a tenant's scope costs by itself: BEGIN, the setting, COMMIT."""


@pytest.fixture
def worker(model: None, cast: Cast) -> Worker:
    submit(cast.alice, jsonl([line(1), line(2), line(3)]))
    submit(cast.charlie, jsonl([line(1), line(2), line(3)]))
    run_control()
    return Worker()


def statements(call: Callable[[], Any], status: int = 200) -> int:
    with ExitStack() as stack:
        aliases = ("system", "default")
        caught = [stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in aliases]
        assert call().status_code == status
    return sum(len(queries) for queries in caught)


def test_a_heartbeat_costs_two_statements_however_many_leases_it_renews(worker: Worker) -> None:
    assert statements(worker.report) == 2
    held = [{"id": grant.id, "epoch": grant.epoch} for grant in (worker.lease(), worker.lease())]
    assert statements(lambda: worker.report(leases=held)) == 2


def test_asking_for_work_costs_two_statements_and_getting_it_six_more(worker: Worker) -> None:
    assert statements(worker.request_lease) == 2 + 1 + SCOPE + 2  # the organisation; the work described
    worker.lease()
    assert statements(worker.request_lease, 204) == 2


def test_a_call_on_a_lease_costs_one_statement_and_what_it_does(worker: Worker) -> None:
    grant = worker.lease()
    read = statements(lambda: worker.call("GET", f"leases/{grant.id}/input", lease=grant))
    assert read == 1 + SCOPE + 2  # shard and file, rows
    assert statements(lambda: grant.put(0, [result(1)]), 201) == 1 + (SCOPE + 2) + (SCOPE + 10)  # read; store
    assert statements(lambda: grant.put(0, [result(1)])) == 1 + SCOPE + 2
    grant.put(1, [result(2), result(3)])
    assert statements(grant.complete) == 1 + SCOPE + 3  # lock, nothing missing, done


def test_giving_a_lease_back_costs_one_statement_and_its_release(worker: Worker) -> None:
    assert statements(worker.lease().fail) == 1 + SCOPE + 2


def test_what_a_wrong_token_or_a_lost_lease_costs(worker: Worker) -> None:
    grant = worker.lease()
    lost = Grant(worker, grant.id, "", grant.epoch, {})
    assert statements(lost.complete, 409) == 1
    grant.fail()
    assert statements(grant.complete, 409) == 2
