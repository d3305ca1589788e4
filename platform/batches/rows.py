"""Rows in bulk, as SQL: tens of thousands at validation, dozens with every segment."""

from typing import Any
from uuid import UUID

import orjson
from django.db import connection

from batches.models import Batch, Segment, Shard

_INSERT = """
INSERT INTO batches_row (organization_id, batch_id, line, "offset", length, custom_id, shard_id, error, state)
SELECT %(organization)s, %(batch)s, line, "offset", length, custom_id, shard, error,
    CASE WHEN error IS NULL THEN 'pending' ELSE 'failed' END
FROM json_to_recordset(%(rows)s::json)
    AS entry (line integer, "offset" bigint, length integer, custom_id text, shard uuid, error jsonb)
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


def row_record(
    *, line: int, offset: int, length: int, custom_id: str | None, shard: UUID | None, error: dict[str, Any] | None
) -> bytes:
    """One row for :func:`insert_rows`, as a line of JSON; with an ``error`` it has failed already."""
    record = {
        "line": line,
        "offset": offset,
        "length": length,
        "custom_id": custom_id,
        "shard": shard,
        "error": error,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def insert_rows(*, batch: Batch, records: list[bytes]) -> None:
    """Store rows. Call inside the scope."""
    with connection.cursor() as cursor:
        cursor.execute(
            _INSERT,
            {
                "organization": batch.organization_id,
                "batch": batch.id,
                "rows": (b"[" + b",".join(records) + b"]").decode(),
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
