"""Lines of output and error files, and the segments in which workers deliver them."""

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson
from django.db.models import F

from batches.closing import start_assembly
from batches.funding import settle_segment
from batches.models import Batch, Row, Segment, Shard
from batches.rows import store_results
from common.errors import HoneError
from common.storage import discard_blobs, save_new
from fleet.models import Lease
from fleet.services import lock_lease, note_progress
from inference_workers.protocol import MAX_SEGMENT_ROWS, MessageError, RowResult, decode
from metering.models import UsageEvent
from metering.services import Quantities, cost_of, record_usage
from tenants.scope import tenant_scope

CLOSING_ERRORS = {
    "expired": {"code": "batch_expired", "message": "The completion window closed before this request ran."},
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this request ran."},
}
"""Of rows that had not run when the batch came to its early end."""

_OPERATIONS = {"/v1/embeddings": UsageEvent.Operation.EMBEDDINGS}
"""As what the work of an endpoint is counted; of all others as completions."""


@dataclass(frozen=True)
class _Finished:
    """One row of a segment, ready to be stored."""

    line: int
    is_success: bool
    text: bytes
    quantities: Quantities
    cost_nanos: int


def row_id(batch_id: UUID, line: int) -> str:
    """The id of a row on the wire: the same however often the row is assembled."""
    return f"batch_req_{batch_id.hex}{line:08x}"


def line_of(batch_id: UUID, wire_id: str) -> int | None:
    """The line of a row's id, or None when it is not the id of a row of this batch."""
    prefix = f"batch_req_{batch_id.hex}"
    digits = wire_id.removeprefix(prefix)
    return int(digits, 16) if wire_id.startswith(prefix) and re.fullmatch("[0-9a-f]{8}", digits) else None


def error_line(batch: Batch, *, line: int, custom_id: str | None, error: dict[str, Any]) -> bytes:
    """The error file's line of a row that never ran."""
    value = {
        "id": row_id(batch.id, line),
        "custom_id": custom_id,
        "line": line,
        "response": None,
        "error": error,
    }
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def commit_segment(*, lease: Lease, number: int, body: bytes) -> bool:
    """Store a segment exactly once; False when these very bytes are stored already.

    The blob is written first, outside of any transaction. Then, in one: the epoch is checked under the lease's
    lock, the rows leave *pending*, counters move, usage is recorded, money is settled.
    """
    with tenant_scope(lease.organization_id):
        shard = Shard.objects.select_related("price").get(lease_id=lease.id)
        segment = Segment(
            organization_id=lease.organization_id,
            batch_id=shard.batch_id,
            shard=shard,
            number=number,
            epoch=lease.epoch,
            digest=sha256(body).hexdigest(),
        )
        if _is_stored(segment, shard):
            return False
        results = _decode(body)
        rows = Row.objects.filter(
            shard_id=shard.id, batch_id=shard.batch_id, line__in=[entry.line for entry in results]
        )
        custom_ids = dict(rows.values_list("line", "custom_id"))
    if len(custom_ids) != len(results):
        raise HoneError("segment_conflict", "The segment holds rows that are not of this lease")
    finished = [_finish(shard, entry, custom_ids[entry.line]) for entry in results]
    segment.rows = len(finished)
    segment.storage_key = save_new(lease.organization_id, "segments", b"".join(entry.text for entry in finished))
    try:
        is_new = _store(lease, segment, finished)
    except HoneError:
        discard_blobs(segment.storage_key)  # refused, so that certainly nothing refers to it
        raise
    if not is_new:
        discard_blobs(segment.storage_key)
    return is_new


def _store(lease: Lease, segment: Segment, finished: list[_Finished]) -> bool:
    with tenant_scope(lease.organization_id):
        held = lock_lease(lease_id=lease.id, epoch=lease.epoch)
        shard = Shard.objects.select_for_update(of=("self",)).select_related("price").get(id=segment.shard_id)
        if _is_stored(segment, shard):
            return False
        segment.save(force_insert=True)
        _store_rows(shard, segment, finished)
        shard.next_segment = segment.number + 1
        shard.pending -= len(finished)
        shard.cost_nanos += sum(entry.cost_nanos for entry in finished)
        shard.save(update_fields=["next_segment", "pending", "cost_nanos"])
        note_progress(lease=held)
        _count(shard, segment, finished)
    return True


def _is_stored(segment: Segment, shard: Shard) -> bool:
    """Whether these bytes are there already; raises when the number is taken by others or out of turn."""
    if segment.number == shard.next_segment:
        return False
    if Segment.objects.filter(shard_id=shard.id, number=segment.number, digest=segment.digest).exists():
        return True
    raise HoneError(
        "segment_conflict", f"Segment {segment.number} does not follow; the next number is {shard.next_segment}"
    )


def _decode(body: bytes) -> list[RowResult]:
    try:
        results = [decode(RowResult, orjson.loads(line)) for line in body.splitlines() if line]
    except (orjson.JSONDecodeError, MessageError) as error:
        raise HoneError("invalid_request", f"The segment is not NDJSON of RowResult: {error}") from error
    lines = {entry.line for entry in results}
    if not results or len(results) > MAX_SEGMENT_ROWS or len(lines) != len(results):
        raise HoneError("invalid_request", f"A segment holds 1 to {MAX_SEGMENT_ROWS} rows, each once")
    for entry in results:
        has_status = entry.status is not None and (200 <= entry.status < 300 or 400 <= entry.status < 500)
        has_response = has_status and entry.body is not None and entry.error is None
        has_error = entry.status is None and entry.body is None and entry.error is not None
        if not has_response and not has_error:
            raise HoneError("invalid_request", f"Line {entry.line}: a row has a response (2xx, 4xx) or an error")
    return results


def _finish(shard: Shard, entry: RowResult, custom_id: str | None) -> _Finished:
    is_success = entry.status is not None and entry.status < 300
    response = None
    if entry.status is not None:
        response = {"status_code": entry.status, "request_id": entry.request_id, "body": entry.body}
    value = {
        "id": row_id(shard.batch_id, entry.line),
        "custom_id": custom_id,
        "response": response,
        "error": {"code": entry.error.code, "message": entry.error.message} if entry.error else None,
    }
    try:
        text = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise HoneError("invalid_request", f"Line {entry.line}: the response nests too deeply") from error
    quantities = Quantities.of_response(entry.body) if is_success else Quantities()
    return _Finished(
        line=entry.line,
        is_success=is_success,
        text=text,
        quantities=quantities,
        cost_nanos=cost_of(quantities=quantities, price=shard.price),
    )


def _store_rows(shard: Shard, segment: Segment, finished: list[_Finished]) -> None:
    results = []
    offset = 0
    for entry in finished:
        results.append(
            {
                "line": entry.line,
                "state": Row.State.COMPLETED if entry.is_success else Row.State.FAILED,
                "offset": offset,
                "length": len(entry.text),
                "input": entry.quantities.input_tokens,
                "cached": entry.quantities.cached_tokens,
                "output": entry.quantities.output_tokens,
                "reasoning": entry.quantities.reasoning_tokens,
                "cost": entry.cost_nanos,
            }
        )
        offset += len(entry.text)
    if store_results(shard=shard, segment=segment, results=results) != len(finished):
        raise HoneError("segment_conflict", "The segment holds rows that are finished already")


def _count(shard: Shard, segment: Segment, finished: list[_Finished]) -> None:
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
    batch = Batch.objects.defer("errors").get(id=shard.batch_id)  # thousands of errors, not needed here
    source = f"segment:{segment.id}"
    if successes:
        record_usage(
            organization_id=batch.organization_id,
            project_id=batch.project_id,
            api_key_id=batch.api_key_id,
            source=source,
            job=batch.wire_id,
            operation=_OPERATIONS.get(batch.endpoint, UsageEvent.Operation.COMPLETIONS),
            model=shard.model,
            price=shard.price,
            quantities=quantities,
        )
    settle_segment(batch=batch, shard=shard, source=source, cost_nanos=cost_nanos)
    if batch.pending == 0 and batch.status == Batch.Status.IN_PROGRESS and not batch.closing_as:
        start_assembly(batch=batch)
