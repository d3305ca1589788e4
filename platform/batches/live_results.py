"""Results row by row, while the batch runs and afterwards."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from batches.models import Batch, Row
from batches.results import CLOSING_ERRORS, row_id
from common.errors import HoneError
from common.pagination import Page
from common.storage import open_blob
from fleet.models import Lease
from tenants.scope import tenant_scope

_TRIES = 3
"""Results move from segments to the files once, at the end of the batch."""


@dataclass(frozen=True)
class LiveResult:
    """One row as it is now. ``response`` and ``error`` as in the output and error files."""

    id: str
    row: Row
    status: str
    attempts: int
    """How often the row has been handed to a node."""
    response: dict[str, Any] | None
    error: dict[str, Any] | None


@dataclass(frozen=True)
class _Place:
    key: str
    row: Row


def list_results(*, batch: Batch, after: int, limit: int, state: str | None) -> Page[LiveResult]:
    """The rows after line ``after`` in the file's order, at most ``limit``; bytes are read outside of the scope."""
    for _ in range(_TRIES - 1):
        try:
            return _list(batch, after, limit, state)
        except HoneError as error:
            if error.code != "service_unavailable":
                raise
    return _list(batch, after, limit, state)


def _list(batch: Batch, after: int, limit: int, state: str | None) -> Page[LiveResult]:
    with tenant_scope(batch.organization_id):
        current = Batch.objects.select_related("output_file", "error_file").defer("errors").get(id=batch.id)
        rows = Row.objects.filter(batch_id=batch.id, line__gt=after).select_related("segment", "shard__lease")
        page = list((rows.filter(state=state) if state else rows).order_by("line")[: limit + 1])
        places = [_Place(key, row) for row in page[:limit] if (key := _blob_of(current, row))]
    texts = _read(places)
    items = [_result(batch, row, texts.get(row.line)) for row in page[:limit]]
    return Page(items=items, has_more=len(page) > limit)


def _blob_of(batch: Batch, row: Row) -> str:
    """Where the row's result stands; empty when it has none."""
    if row.segment is None:
        return ""
    if not batch.has_files:
        return str(row.segment.storage_key)
    file = batch.output_file if row.state == Row.State.COMPLETED else batch.error_file
    return str(file.storage_key) if file is not None and file.deleted_at is None else ""


def _read(places: list[_Place]) -> dict[int, dict[str, Any]]:
    texts = {}
    for key, group in groupby(sorted(places, key=lambda place: place.key), key=lambda place: place.key):
        with open_blob(key) as file:
            for place in group:
                file.seek(place.row.result_offset)
                texts[place.row.line] = orjson.loads(file.read(place.row.result_length))
    return texts


def _result(batch: Batch, row: Row, text: dict[str, Any] | None) -> LiveResult:
    status = str(row.state)
    if row.state == Row.State.PENDING and row.shard is not None and row.shard.lease.state == Lease.State.LEASED:
        status = "in_progress"
    lease_epoch = row.shard.lease.epoch if row.shard is not None else 0
    return LiveResult(
        id=row_id(batch.id, row.line),
        row=row,
        status=status,
        attempts=row.segment.epoch if row.segment is not None else lease_epoch,
        response=text["response"] if text else None,
        error=text["error"] if text else CLOSING_ERRORS.get(row.state) or row.error,
    )
