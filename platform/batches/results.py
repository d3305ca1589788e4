"""Lines of output and error files, and the segments in which workers deliver them."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
from django.db.models import F

from batches.models import Batch, Row, Segment, Shard
from batches.services import start_assembly
from common.errors import HoneError
from common.storage import save_new
from fleet.models import Lease
from fleet.services import lock_lease, note_progress
from inference_workers.protocol import MAX_SEGMENT_ROWS, MessageError, RowResult, decode
from metering.services import Quantities, cost_of, record_usage
from tenants.scope import tenant_scope

CLOSING_ERRORS = {
    Row.State.EXPIRED: ("batch_expired", "The completion window closed before this request ran."),
    Row.State.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request ran."),
}


@dataclass(frozen=True)
class _Finished:
    """One row of a segment, ready to be stored."""

    line: int
    is_success: bool
    text: bytes
    quantities: Quantities
    cost_nanos: int


def row_id(batch: Batch, line: int) -> str:
    """The id of a row on the wire: the same however often the row is assembled."""
    return f"batch_req_{batch.id.hex}{line:08x}"


def error_line(batch: Batch, row: Row) -> bytes:
    """The error file's line of a row that never ran."""
    if row.state in CLOSING_ERRORS:
        code, message = CLOSING_ERRORS[Row.State(row.state)]
        error: dict[str, Any] = {"code": code, "message": message}
    else:
        error = dict(row.error or {})
    value = {
        "id": row_id(batch, row.line),
        "custom_id": row.custom_id,
        "line": row.line,
        "response": None,
        "error": error,
    }
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def commit_segment(*, lease: Lease, number: int, body: bytes) -> bool:
    """Store a segment exactly once; False when these very bytes are stored already.

    The blob is written first, outside of any transaction. Then, in one: the epoch is checked under the lease's
    lock, the rows leave *pending*, counters move, usage is recorded.
    """
    digest = sha256(body).hexdigest()
    with tenant_scope(lease.organization_id):
        shard = Shard.objects.select_related("batch", "price").get(lease_id=lease.id)
        if _is_stored(shard, number, digest):
            return False
        results = _decode(body)
        custom_ids = dict(
            Row.objects.filter(batch_id=shard.batch_id, line__in=[entry.line for entry in results]).values_list(
                "line", "custom_id"
            )
        )
    finished = [_finish(shard, entry, custom_ids.get(entry.line)) for entry in results]
    key = save_new(lease.organization_id, "segments", b"".join(entry.text for entry in finished))
    with tenant_scope(lease.organization_id):
        locked = lock_lease(lease_id=lease.id, epoch=lease.epoch)
        shard = Shard.objects.select_for_update(of=("self",)).select_related("price").get(id=shard.id)
        if _is_stored(shard, number, digest):
            return False
        segment = Segment.objects.create(
            organization_id=lease.organization_id,
            batch_id=shard.batch_id,
            shard=shard,
            number=number,
            digest=digest,
            storage_key=key,
            rows=len(finished),
        )
        _store_rows(shard, segment, finished)
        shard.next_segment = number + 1
        shard.save(update_fields=["next_segment"])
        note_progress(lease=locked)
        _count(shard, segment.id, finished)
    return True


def _is_stored(shard: Shard, number: int, digest: str) -> bool:
    """Whether this segment is there already; raises when the number is taken by other bytes or out of turn."""
    if number == shard.next_segment:
        return False
    stored = Segment.objects.filter(shard_id=shard.id, number=number).first()
    if stored is not None and stored.digest == digest:
        return True
    raise HoneError("segment_conflict", f"Segment {number} does not follow; the next number is {shard.next_segment}")


def _decode(body: bytes) -> list[RowResult]:
    try:
        results = [decode(RowResult, orjson.loads(line)) for line in body.splitlines() if line]
    except (orjson.JSONDecodeError, MessageError) as error:
        raise HoneError("invalid_request", f"The segment is not NDJSON of RowResult: {error}") from error
    lines = {entry.line for entry in results}
    if not results or len(results) > MAX_SEGMENT_ROWS or len(lines) != len(results):
        raise HoneError("invalid_request", f"A segment holds 1 to {MAX_SEGMENT_ROWS} rows, each once")
    for entry in results:
        has_response = entry.status is not None and 200 <= entry.status < 500 and entry.body is not None
        if has_response == (entry.error is not None):
            raise HoneError("invalid_request", f"Line {entry.line}: a row has a response (2xx, 4xx) or an error")
    return results


def _finish(shard: Shard, entry: RowResult, custom_id: str | None) -> _Finished:
    is_success = entry.status is not None and entry.status < 300
    response = None
    if entry.status is not None:
        response = {"status_code": entry.status, "request_id": entry.request_id, "body": entry.body}
    value = {
        "id": row_id(shard.batch, entry.line),
        "custom_id": custom_id,
        "response": response,
        "error": {"code": entry.error.code, "message": entry.error.message} if entry.error else None,
    }
    quantities = Quantities.of_response(entry.body) if is_success else Quantities()
    return _Finished(
        line=entry.line,
        is_success=is_success,
        text=orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE),
        quantities=quantities,
        cost_nanos=cost_of(quantities=quantities, price=shard.price),
    )


def _store_rows(shard: Shard, segment: Segment, finished: list[_Finished]) -> None:
    rows = {
        row.line: row
        for row in Row.objects.select_for_update().filter(
            batch_id=shard.batch_id,
            shard_id=shard.id,
            state=Row.State.PENDING,
            line__in=[entry.line for entry in finished],
        )
    }
    if len(rows) != len(finished):
        raise HoneError("segment_conflict", "The segment holds rows that are finished already or not of this lease")
    offset = 0
    for entry in finished:
        row = rows[entry.line]
        row.state = Row.State.COMPLETED if entry.is_success else Row.State.FAILED
        row.segment_id = segment.id
        row.result_offset, row.result_length = offset, len(entry.text)
        row.input_tokens = entry.quantities.input_tokens
        row.cached_tokens = entry.quantities.cached_tokens
        row.output_tokens = entry.quantities.output_tokens
        row.reasoning_tokens = entry.quantities.reasoning_tokens
        row.cost_nanos = entry.cost_nanos
        offset += len(entry.text)
    Row.objects.bulk_update(
        rows.values(),
        [
            "state", "segment", "result_offset", "result_length",
            "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_nanos",
        ],
    )  # fmt: skip


def _count(shard: Shard, segment_id: UUID, finished: list[_Finished]) -> None:
    successes = sum(entry.is_success for entry in finished)
    quantities = sum((entry.quantities for entry in finished), Quantities())
    cost_nanos = sum(entry.cost_nanos for entry in finished)
    Batch.objects.filter(id=shard.batch_id).update(
        pending=F("pending") - len(finished),
        completed=F("completed") + successes,
        failed=F("failed") + len(finished) - successes,
        input_tokens=F("input_tokens") + quantities.input_tokens,
        cached_tokens=F("cached_tokens") + quantities.cached_tokens,
        output_tokens=F("output_tokens") + quantities.output_tokens,
        reasoning_tokens=F("reasoning_tokens") + quantities.reasoning_tokens,
        cost_nanos=F("cost_nanos") + cost_nanos,
    )
    batch = Batch.objects.get(id=shard.batch_id)
    if successes:
        record_usage(
            organization_id=batch.organization_id,
            project_id=batch.project_id,
            api_key_id=batch.api_key_id,
            source=f"segment:{segment_id}",
            job=batch.wire_id,
            model=shard.model,
            price=shard.price,
            quantities=quantities,
        )
    if batch.pending == 0 and batch.status == Batch.Status.IN_PROGRESS and not batch.closing_as:
        start_assembly(batch=batch)
