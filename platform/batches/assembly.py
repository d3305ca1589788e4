"""Assembly: the finished rows become the output and the error file, in input order, and the accounts must agree."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import UUID

import orjson
import structlog
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from batches.models import Batch, Row, Segment
from batches.results import error_line
from batches.services import add_result_file
from common.storage import CHUNK_BYTES, IncomingBlob, open_blob
from files.services import release_file
from fleet.models import Lease
from fleet.services import complete_lease, lock_lease, renew_lease
from metering.models import UsageEvent
from metering.services import Quantities
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

PAGE_ROWS = 2_000
RENEW_SECONDS = 3


class Artefact:
    """The two files being written, and what they themselves say."""

    def __init__(self, batch: Batch, output: IncomingBlob, errors: IncomingBlob) -> None:
        self._batch = batch
        self._output = output
        self._errors = errors
        self.rows = 0
        self.successes = 0
        self.quantities = Quantities()

    def add(self, row: Row, text: bytes | None) -> None:
        """The next row; ``text`` is its line when it has run."""
        self.rows += 1
        if text is None:
            self._errors.write(error_line(self._batch, row))
        elif row.state != Row.State.COMPLETED:
            self._errors.write(text)
        else:
            self._output.write(text)
            self.successes += 1
            # Summed from the line that the customer will read, not from what we noted about it.
            self.quantities += Quantities.of_response(orjson.loads(text)["response"]["body"])


def assemble_batch(*, lease: Lease) -> None:
    """Write the files of this lease's batch and end it; hold it for the operator if its accounts disagree."""
    with tenant_scope(lease.organization_id):
        batch = Batch.objects.select_related("project").get(control_lease_id=lease.id)
    folder = Path(settings.STORAGE_ROOT) / "incoming"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    beat = _Heartbeat(lease)
    with tempfile.TemporaryFile(dir=folder) as spool, IncomingBlob() as output, IncomingBlob() as errors:
        places = _gather(batch, spool, beat)
        artefact = Artefact(batch, output, errors)
        for row in _rows_in_order(batch):
            beat()
            text = None
            if row.segment_id is not None:
                spool.seek(places[row.segment_id] + row.result_offset)
                text = spool.read(row.result_length)
            artefact.add(row, text)
        keys = {
            name: blob.keep_new(batch.organization_id, "files") if blob.size else None
            for name, blob in (("output", output), ("errors", errors))
        }
        with tenant_scope(lease.organization_id):
            lock_lease(lease_id=lease.id, epoch=lease.epoch)
            locked = Batch.objects.select_for_update().get(id=batch.id)
            locked.project = batch.project
            disagreement = _disagreement(locked, artefact)
            if disagreement:
                locked.held_reason = disagreement
                locked.save(update_fields=["held_reason"])
                logger.error("batch held for the operator", job=batch.wire_id, reason=disagreement)
            else:
                if keys["output"]:
                    locked.output_file = add_result_file(batch=locked, blob=output, key=keys["output"], name="output")
                if keys["errors"]:
                    locked.error_file = add_result_file(batch=locked, blob=errors, key=keys["errors"], name="errors")
                _end(locked)
            complete_lease(lease=lease)


class _Heartbeat:
    """Renews the lease when called, at most every few seconds."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last > RENEW_SECONDS:
            renew_lease(lease=self._lease)
            self._last = time.monotonic()


def _gather(batch: Batch, spool: IO[bytes], beat: _Heartbeat) -> dict[UUID, int]:
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
        output=Sum("output_tokens", default=0),
        cost=Sum("cost_nanos", default=0),
    )
    row_cost = Row.objects.filter(batch_id=batch.id).aggregate(cost=Sum("cost_nanos", default=0))["cost"]
    accounts = {
        "lines": (batch.total, artefact.rows),
        "pending": (batch.pending, 0),
        "successes": (batch.completed, artefact.successes, found.requests, events["requests"]),
        "input tokens": (batch.input_tokens, found.input_tokens, events["input"]),
        "output tokens": (batch.output_tokens, found.output_tokens, events["output"]),
        "cached tokens": (batch.cached_tokens, found.cached_tokens),
        "cost": (batch.cost_nanos, row_cost, events["cost"]),
    }
    return "; ".join(f"{name}: {values}" for name, values in accounts.items() if len(set(values)) > 1)


def _end(batch: Batch) -> None:
    now = timezone.now()
    status = Batch.Status(batch.closing_as or Batch.Status.COMPLETED)
    batch.status = status
    setattr(batch, f"{status}_at", now)
    batch.save()
    release_file(file_id=batch.input_file_id, holder=batch.wire_id)
    record(
        actor=SYSTEM_ACTOR,
        action=f"batch.{status}",
        subject=batch.wire_id,
        organization_id=batch.organization_id,
        details={"completed": batch.completed, "failed": batch.failed, "cost_nanos": batch.cost_nanos},
    )
