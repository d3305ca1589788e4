"""Assembly: the finished rows become the output and the error file, in input order, and the accounts must agree."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import IO
from uuid import UUID

import orjson
import structlog
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from batches.closing import add_result_file, announce_end, lock_controlled_batch, start_clearing
from batches.models import Batch, Row, Segment
from batches.results import CLOSING_ERRORS, error_line
from batches.rows import relocate_results
from batches.selectors import get_controlled_batch
from billing.selectors import charged_for
from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob, delete_blob, discard_blobs, open_blob, open_spool
from files.services import release_file
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease
from metering.models import UsageEvent
from metering.services import Quantities
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

PAGE_ROWS = 2_000
SLOWEST_STORAGE_BYTES = 2_000_000
"""Per second, for a storage to which the files have to travel."""


class Artefact:
    """The two files being written, what they themselves say, and on a spool where the results stand in them."""

    def __init__(self, batch: Batch, output: IncomingBlob, errors: IncomingBlob, places: IO[bytes]) -> None:
        self._batch = batch
        self._output = output
        self._errors = errors
        self._places = places
        self.states: Counter[str] = Counter()
        self.quantities = Quantities()

    def add(self, row: Row, text: bytes | None) -> None:
        """The next row; ``text`` is its line when it has run."""
        self.states[row.state] += 1
        if text is None:
            error = CLOSING_ERRORS.get(row.state) or row.error or {}
            self._errors.write(error_line(self._batch, line=row.line, custom_id=row.custom_id, error=error))
        elif row.state != Row.State.COMPLETED:
            self._put(row, text, self._errors)
        else:
            self._put(row, text, self._output)
            # Summed from the line that the customer will read, not from what we noted about it.
            self.quantities += Quantities.of_response(orjson.loads(text)["response"]["body"])

    def places(self) -> Iterator[dict[str, int]]:
        """``line`` and ``offset`` of every result."""
        self._places.seek(0)
        yield from map(orjson.loads, self._places)

    def _put(self, row: Row, text: bytes, file: IncomingBlob) -> None:
        self._places.write(orjson.dumps({"line": row.line, "offset": file.size}, option=orjson.OPT_APPEND_NEWLINE))
        file.write(text)


def assemble_batch(*, lease: Lease) -> None:
    """Write the files of this lease's batch and end it; hold it for the operator if its accounts disagree."""
    with tenant_scope(lease.organization_id):
        batch = get_controlled_batch(lease=lease)
    beat = Heartbeat(lease)
    with (
        bound_contextvars(job=batch.wire_id),
        open_spool() as spool,
        open_spool() as result_places,
        IncomingBlob() as output,
        IncomingBlob() as errors,
    ):
        places = _gather(batch, spool, beat)
        artefact = Artefact(batch, output, errors, result_places)
        for row in _rows_in_order(batch):
            beat()
            text = None
            if row.segment_id is not None:
                spool.seek(places[row.segment_id] + row.result_offset)
                text = spool.read(row.result_length)
            artefact.add(row, text)
        files = {"output": output, "errors": errors}
        keys = {}
        for name, blob in files.items():
            if blob.size:
                beat.renew(seconds=settings.LEASE_SECONDS + blob.size / SLOWEST_STORAGE_BYTES)
                keys[name] = blob.keep_new(batch.organization_id, "files")
        try:
            has_ended = _conclude(lease, artefact, files, keys)
        except HoneError:
            discard_blobs(*keys.values())  # refused, so that certainly nothing refers to them
            raise
        if not has_ended:
            discard_blobs(*keys.values())


def clear_segments(*, lease: Lease) -> None:
    """Delete the segments' blobs of a batch that has its files: a second copy would outlive the customer's deletion."""
    beat = Heartbeat(lease)
    with tenant_scope(lease.organization_id):
        batch = get_controlled_batch(lease=lease)
        keys = list(Segment.objects.filter(batch_id=batch.id).values_list("storage_key", flat=True))
    for key in keys:
        beat()
        delete_blob(key)
    with tenant_scope(lease.organization_id):
        complete_lease(lease=lease)
        Segment.objects.filter(batch_id=batch.id).update(storage_key="")


def _conclude(lease: Lease, artefact: Artefact, files: dict[str, IncomingBlob], keys: dict[str, str]) -> bool:
    """End the batch with its files, or hold it and return False."""
    with tenant_scope(lease.organization_id):
        batch = lock_controlled_batch(lease=lease)
        disagreement = _disagreement(batch, artefact)
        if disagreement:
            batch.held_reason = disagreement
            batch.save(update_fields=["held_reason"])
            logger.error("batch held for the operator", reason=disagreement)
        else:
            for name, field in (("output", "output_file"), ("errors", "error_file")):
                if name in keys:
                    setattr(batch, field, add_result_file(batch=batch, blob=files[name], key=keys[name], name=name))
            places = artefact.places()
            while page := list(islice(places, PAGE_ROWS)):
                relocate_results(batch=batch, places=page)
            _end(batch)
        complete_lease(lease=lease)
    return not disagreement


def _gather(batch: Batch, spool: IO[bytes], beat: Heartbeat) -> dict[UUID, int]:
    """Copy all segments into one local file, so that rows can be picked from it in any order; where each begins."""
    with tenant_scope(batch.organization_id):
        segments = list(Segment.objects.filter(batch_id=batch.id).values_list("id", "storage_key"))
    places = {}
    for segment_id, key in segments:
        beat()
        places[segment_id] = spool.tell()
        with open_blob(key) as file:
            while chunk := file.read(CHUNK_BYTES):
                spool.write(chunk)
    return places


def _rows_in_order(batch: Batch) -> Iterator[Row]:
    last = 0
    while True:
        with tenant_scope(batch.organization_id):
            page = list(Row.objects.filter(batch_id=batch.id, line__gt=last).order_by("line")[:PAGE_ROWS])
        if not page:
            return
        yield from page
        last = page[-1].line


def _disagreement(batch: Batch, artefact: Artefact) -> str:
    """Empty when file, counters and usage events tell the same story (ARCHITECTURE 5)."""
    found = artefact.quantities
    events = UsageEvent.objects.filter(job=batch.wire_id).aggregate(
        requests=Sum("requests", default=0),
        input=Sum("input_tokens", default=0),
        cached=Sum("cached_tokens", default=0),
        output=Sum("output_tokens", default=0),
        cost=Sum("cost_nanos", default=0),
    )
    # Of a batch that was open when the ledger came nothing was ever held, and nothing is charged.
    charged = charged_for(job=batch.wire_id) if batch.holds else batch.cost_nanos
    row_cost = Row.objects.filter(batch_id=batch.id).aggregate(cost=Sum("cost_nanos", default=0))["cost"]
    accounts = {
        "lines": (batch.total, artefact.states.total()),
        "pending": (batch.pending, artefact.states[Row.State.PENDING], 0),
        "completed": (batch.completed, artefact.states[Row.State.COMPLETED], found.requests, events["requests"]),
        "failed": (batch.failed, artefact.states[Row.State.FAILED]),
        "expired": (batch.expired, artefact.states[Row.State.EXPIRED]),
        "cancelled": (batch.cancelled, artefact.states[Row.State.CANCELLED]),
        "input tokens": (batch.input_tokens, found.input_tokens, events["input"]),
        "output tokens": (batch.output_tokens, found.output_tokens, events["output"]),
        "cached tokens": (batch.cached_tokens, found.cached_tokens, events["cached"]),
        "cost": (batch.cost_nanos, row_cost, events["cost"], charged),
    }
    return "; ".join(f"{name}: {values}" for name, values in accounts.items() if len(set(values)) > 1)


def _end(batch: Batch) -> None:
    now = timezone.now()
    status = Batch.Status(batch.closing_as or Batch.Status.COMPLETED)
    batch.status = status
    setattr(batch, f"{status}_at", now)
    batch.save()
    start_clearing(batch=batch)
    release_file(file_id=batch.input_file_id, holder=batch.wire_id)
    announce_end(batch=batch)
    record(
        actor=SYSTEM_ACTOR,
        action=f"batch.{status}",
        subject=batch.wire_id,
        organization_id=batch.organization_id,
        details={"completed": batch.completed, "failed": batch.failed, "cost_nanos": batch.cost_nanos},
    )
