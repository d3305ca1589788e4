"""Rows in bulk, as SQL: tens of thousands at validation, dozens with every segment."""

from typing import Any

import orjson
from django.db import connection

from batches.models import Batch, Segment, Shard
from files.lines import Line

_INSERT = """
INSERT INTO batches_row (
    organization_id, batch_id, line, "offset", length, custom_id, error, shard_id, position, bound_nanos, state
)
SELECT %(organization)s, %(batch)s, line, "offset", length, custom_id, error,
    shard, coalesce(position, 0), coalesce(bound, 0), CASE WHEN error IS NULL THEN 'pending' ELSE 'failed' END
FROM json_to_recordset(%(rows)s::json) AS entry (
    line integer, "offset" bigint, length integer, custom_id text, error jsonb,
    shard uuid, position integer, bound bigint
)
"""

_STORE = """
UPDATE batches_row SET
    state = result.state, segment_id = %(segment)s, result_offset = result."offset", result_length = result.length,
    input_tokens = result.input, cached_tokens = result.cached, output_tokens = result.output,
    reasoning_tokens = result.reasoning, cost_nanos = result.cost
FROM json_to_recordset(%(results)s::json)
    AS result (
        line integer, state text, "offset" integer, length integer,
        input integer, cached integer, output integer, reasoning integer, cost bigint
    )
WHERE batch_id = %(batch)s AND shard_id = %(shard)s AND batches_row.line = result.line
    AND batches_row.state = 'pending'
"""

# No join: of a table that has grown since it was last analysed the planner expects one row of the batch, and meets each
# of them with each of the places.
_RELOCATE = """
UPDATE batches_row SET result_offset = (%(offsets)s::jsonb ->> line::text)::bigint
WHERE batch_id = %(batch)s AND line = ANY (%(lines)s::integer[])
"""


def row_record(*, line: Line, custom_id: str | None, error: dict[str, Any] | None) -> bytes:
    """What validation notes of a line, as JSON; one with an ``error`` has failed already."""
    record = {
        "line": line.number,
        "offset": line.offset,
        "length": line.length,
        "custom_id": custom_id,
        "error": error,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def insert_rows(*, batch: Batch, records: list[dict[str, Any]]) -> None:
    """Store rows: those of :func:`row_record`, which with ``shard``, ``position`` and ``bound`` can run.

    Call inside the scope.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _INSERT,
            {
                "organization": batch.organization_id,
                "batch": batch.id,
                "rows": orjson.dumps(records).decode(),
            },
        )


def store_results(*, shard: Shard, segment: Segment, results: list[dict[str, Any]]) -> int:
    """Give pending rows of a shard their results (the columns of ``_STORE``); how many of them were pending."""
    with connection.cursor() as cursor:
        cursor.execute(
            _STORE,
            {
                "batch": shard.batch_id,
                "shard": shard.id,
                "segment": segment.id,
                "results": orjson.dumps(results).decode(),
            },
        )
        stored: int = cursor.rowcount
    return stored


def relocate_results(*, batch: Batch, places: list[dict[str, int]]) -> None:
    """Note where results stand in the output and error files: ``line`` and ``offset`` each. Call inside the scope."""
    with connection.cursor() as cursor:
        cursor.execute(
            _RELOCATE,
            {
                "batch": batch.id,
                "lines": [place["line"] for place in places],
                "offsets": orjson.dumps({str(place["line"]): place["offset"] for place in places}).decode(),
            },
        )
