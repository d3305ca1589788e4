"""What is done with the rows of a batch costs as much for each however many there are, whatever the planner knows."""

import json
from typing import Any

from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from batches.assembly import PAGE_ROWS
from batches.models import Batch
from batches.rows import insert_rows, relocate_results
from common.database import OWNER
from tenants.scope import tenant_scope
from tests.support.cast import Cast
from tests.support.facts import query_owner, uuid_of
from tests.support.rows import jsonl, line, submit
from tests.support.tables import query

ROWS = 5 * PAGE_ROWS


def rows_met(plan: dict[str, Any]) -> int:
    """Rows that the nodes of a plan have looked at, whether they passed them on or not."""
    own = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
    return int(own * plan["Actual Loops"]) + sum(rows_met(part) for part in plan.get("Plans", []))


def test_results_are_relocated_row_by_row(cast: Cast) -> None:
    batch_id = uuid_of(submit(cast.alice, jsonl([line(1)])))
    with connections[OWNER].cursor() as cursor:
        cursor.execute("ANALYZE batches_row")  # as autovacuum has left it before the rows came
    with tenant_scope(cast.alice.organization.id):
        batch = Batch.objects.get(id=batch_id)
        records = [
            {"line": number, "offset": 0, "length": 1, "custom_id": str(number), "error": {"code": "x"}}
            for number in range(1, ROWS + 1)
        ]
        insert_rows(batch=batch, records=records)
    with tenant_scope(cast.alice.organization.id):
        places = [{"line": number, "offset": 7 * number} for number in range(101, PAGE_ROWS + 101)]
        with CaptureQueriesContext(connection) as statements:
            relocate_results(batch=batch, places=places)
        ((plan,),) = query(f"EXPLAIN (ANALYZE, FORMAT JSON) {statements[-1]['sql'].replace('%', '%%')}")
    found = (json.loads(plan) if isinstance(plan, str) else plan)[0]
    assert rows_met(found["Plan"]) <= 4 * PAGE_ROWS
    moved = query_owner("SELECT line, result_offset FROM batches_row WHERE result_offset <> 0 ORDER BY line")
    assert moved == [(place["line"], place["offset"]) for place in places]
