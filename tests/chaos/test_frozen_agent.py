"""An agent that stands still for longer than its leases last comes back too late: it changes nothing.

That a repeated segment is counted once, and a different one under its number refused, is tested call by call in
``tests/platform/batches/test_segments.py``.
"""

from typing import Any

from infra.dev.instance import Instance
from tests.chaos.processes import agent, frozen, log_of, program, wait_for_web
from tests.e2e.jobs import requests, submit, wait_for_end, wait_for_rows
from tests.support.books import assert_accounts_agree, assert_nothing_is_stuck, query
from tests.support.cast import MODEL
from tests.support.customers import Customer
from tests.support.waiting import wait_until

ROWS = 120
_HELD = (
    "SELECT lease.id FROM fleet_lease lease JOIN fleet_node node ON node.id = lease.node_id "
    "WHERE node.name = %s AND lease.state = 'leased'"
)
_ROWS = "SELECT line, state, segment_id, cost_nanos FROM batches_row WHERE batch_id = %s ORDER BY line"


def test_an_agent_frozen_past_its_lease_changes_nothing(instance: Instance, alice: Customer) -> None:
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    number = batch.id.removeprefix("batch_")
    wait_for_rows(alice.client, batch, 1)
    wait_until(lambda: query(instance, _HELD, "a") != [], seconds=60)
    begun = len(log_of(instance, "agent-a"))

    # Frozen with a segment in its hands: while web is away the agent tries again and again to commit it.
    program(instance, "web").kill()
    wait_until(lambda: _segments_sent_in_vain(instance, begun) != [], seconds=60)
    with frozen(agent(instance, "a")):
        path = _segments_sent_in_vain(instance, begun)[-1]
        wait_for_web(instance)
        wait_for_end(alice.client, batch)
        assert_accounts_agree(instance, alice, batch)
        rows = query(instance, _ROWS, number)
        noted = len(log_of(instance, "web"))

    wait_until(lambda: _answers_to(instance, path, noted) != [], seconds=60)
    assert _answers_to(instance, path, noted) == [409]
    wait_until(lambda: _outcome(instance, path, begun) != [], seconds=60)
    assert _outcome(instance, path, begun) == ["lost"]  # what the agent makes of `lease_lost` alone
    assert query(instance, _ROWS, number) == rows
    assert_accounts_agree(instance, alice, batch)
    assert_nothing_is_stuck(instance)


def _entries(instance: Instance, name: str, since: int, event: str) -> list[dict[str, Any]]:
    return [entry for entry in log_of(instance, name)[since:] if entry["event"] == event]


def _segments_sent_in_vain(instance: Instance, since: int) -> list[str]:
    """Paths of segments that agent a could not commit."""
    calls = [entry["call"] for entry in _entries(instance, "agent-a", since, "control_plane_unavailable")]
    return [call.removeprefix("PUT ") for call in calls if "/segments/" in call]


def _answers_to(instance: Instance, path: str, since: int) -> list[int]:
    """How web has answered those who sent this segment."""
    return [entry["status"] for entry in _entries(instance, "web", since, "request") if entry["path"].endswith(path)]


def _outcome(instance: Instance, path: str, since: int) -> list[str]:
    """How the lease of a segment has ended for agent a."""
    lease = path.split("/")[1]
    return [
        entry["outcome"] for entry in _entries(instance, "agent-a", since, "lease_ended") if entry["lease"] == lease
    ]
