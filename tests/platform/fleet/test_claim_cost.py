"""The cost of a claim does not grow with the number of waiting leases."""

import json
from typing import Any

import pytest
from django.db import connections, transaction

from common.database import OWNER, SYSTEM
from fleet.claims import _CLAIM, claim_lease
from tests.support.cast import MODEL, Cast, make_member
from tests.support.leases import queue_leases

WAITING = 12_000


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *[node for child in plan.get("Plans", []) for node in nodes_of(child)]]


def explain() -> dict[str, Any]:
    with transaction.atomic(using=SYSTEM), connections[SYSTEM].cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_CLAIM}",
            {"kinds": ["batch_shard"], "models": ["other", MODEL, ""], "node": None, "hold": 15, "without": []},
        )
        (found,) = cursor.fetchone()
        transaction.set_rollback(True, using=SYSTEM)  # it has claimed
    plan: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]
    return plan


@pytest.fixture
def long_queue(cast: Cast) -> None:
    members = [cast.alice, cast.charlie, make_member("Dora")]
    for member in members:
        queue_leases(member, WAITING // 3)
        queue_leases(member, 20, state="leased")
        queue_leases(member, WAITING // 3, state="done")
    with connections[OWNER].cursor() as cursor:
        cursor.execute("ANALYZE fleet_lease")
        cursor.execute("ANALYZE tenants_organization")


def test_a_claim_from_a_long_queue_reads_a_few_index_pages_and_is_fair(long_queue: None) -> None:
    explain()  # meets, and marks, the entries of what earlier tests have deleted
    plan = explain()
    scans = [node for node in nodes_of(plan["Plan"]) if node.get("Relation Name") == "fleet_lease"]
    waiting = [node for node in scans if node.get("Index Name") == "lease_waiting_by_kind"]
    assert {node["Node Type"] for node in scans} <= {
        "ModifyTable", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"
    }  # fmt: skip
    assert {node["Index Name"] for node in nodes_of(plan["Plan"]) if "Index Name" in node} <= {
        "lease_waiting_by_kind", "lease_leased", "fleet_lease_pkey", "tenants_organization_pkey"
    }  # fmt: skip
    assert waiting
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in waiting) < 50
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 500
    owners = []
    for _ in range(9):
        lease = claim_lease(kinds=["batch_shard"], models=[MODEL], node_id=None)
        assert lease is not None
        owners.append(lease.organization_id)
    assert sorted(owners.count(owner) for owner in set(owners)) == [3, 3, 3]
