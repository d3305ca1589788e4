"""Validation: the input file is read once, every line is checked, and the good ones become shards.

Constant memory: what has been found out about the lines goes to a spool on disk, and from there to the
database in one short transaction that the lease's epoch fences.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import IO, Any
from uuid import UUID

import orjson
from django.conf import settings
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from batches.lines import FileError, Line, read_lines
from batches.models import Batch, Shard
from batches.requests import LineError, LineRequest, LineRules, parse_request, read_custom_id
from batches.results import error_line
from batches.rows import insert_rows, row_record
from batches.selectors import get_controlled_batch
from batches.services import close_failed, lock_controlled_batch, start_assembly
from batches.spool import open_spool
from catalog.models import BaseModel, Price
from catalog.selectors import current_price, usable_models
from catalog.tokens import token_counter
from common.ids import uuid7
from common.storage import IncomingBlob, open_blob
from fleet.doorbell import ring_after_commit
from fleet.heartbeat import Heartbeat, WorkCancelledError
from fleet.models import Lease
from fleet.services import complete_lease
from tenants.scope import tenant_scope

MAX_LISTED_ERRORS = 2_000
"""Bad lines named in the batch object itself; the error file names all of them."""
INSERT_ROWS = 5_000
SHARD_KIND = "batch_shard"


@dataclass
class ShardPlan:
    """Rows of one model that will be leased together."""

    model: str
    id: UUID = field(default_factory=uuid7)
    rows: int = 0
    tokens: int = 0

    @property
    def is_full(self) -> bool:
        """About ten seconds of work, or as many rows as a lease may hold."""
        full: bool = self.tokens >= settings.BATCH_SHARD_TOKENS or self.rows >= settings.BATCH_SHARD_MAX_ROWS
        return full


class Plan:
    """What one pass over the file has found; the lines themselves stand in the spool, in order."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.shards: list[ShardPlan] = []
        self.errors: list[dict[str, Any]] = []
        self.total = 0
        self.invalid = 0
        self._open: dict[str, ShardPlan] = {}
        self._spool = spool

    @property
    def models(self) -> set[str]:
        """Names of all models that lines ask for."""
        return {shard.model for shard in self.shards}

    def add(self, line: Line, custom_id: str, request: LineRequest) -> None:
        """A line that can run."""
        name = request.model.name
        shard = self._open.get(name)
        if shard is None or shard.is_full:
            shard = self._open[name] = ShardPlan(name)
            self.shards.append(shard)
        shard.rows += 1
        shard.tokens += request.estimated_tokens
        self._write(line, custom_id, shard.id, None)

    def reject(self, line: Line, custom_id: str | None, error: LineError) -> None:
        """A line that cannot run."""
        self.invalid += 1
        complaint = {"code": error.code, "message": error.message, "param": error.param}
        if len(self.errors) < MAX_LISTED_ERRORS:
            self.errors.append({**complaint, "line": line.number})
        self._write(line, custom_id, None, complaint)

    def records(self) -> Iterator[bytes]:
        """The lines, as records of :mod:`batches.rows`."""
        self._spool.seek(0)
        yield from self._spool

    def _write(self, line: Line, custom_id: str | None, shard: UUID | None, error: dict[str, Any] | None) -> None:
        self.total += 1
        self._spool.write(
            row_record(
                line=line.number,
                offset=line.offset,
                length=line.length,
                custom_id=custom_id,
                shard=shard,
                error=error,
            )
        )


def validate_batch(*, lease: Lease) -> None:
    """Read, check and shard the batch of this lease, or fail it with every bad line named. May run twice."""
    with tenant_scope(lease.organization_id):
        batch = get_controlled_batch(lease=lease)
        models = {model.name: model for model in usable_models(key=batch.api_key)}
    rules = LineRules(endpoint=batch.endpoint, find_model=models.get, counter_of=token_counter)
    with bound_contextvars(job=batch.wire_id), open_spool() as spool:
        plan = Plan(spool)
        try:
            _read(batch, plan, rules, Heartbeat(lease))
        except FileError as error:
            close_failed(
                lease=lease, errors=[{"code": error.code, "message": error.message, "param": None, "line": None}]
            )
            return
        if plan.invalid and batch.on_invalid == Batch.OnInvalid.FAIL:
            _fail(batch, plan, lease)
        else:
            _commit(plan, models, lease)


def _read(batch: Batch, plan: Plan, rules: LineRules, beat: Heartbeat) -> None:
    seen: set[bytes] = set()
    with open_blob(batch.input_file.storage_key) as file:
        for line in read_lines(file, max_bytes=settings.BATCH_LINE_MAX_BYTES):
            beat()
            if plan.total >= settings.BATCH_INPUT_MAX_ROWS:
                raise FileError(
                    "too_many_rows", f"A batch takes at most {settings.BATCH_INPUT_MAX_ROWS} requests; split the file"
                )
            custom_id = None
            try:
                value = _parse(line)
                # Before all else, so that a line that is wrong otherwise is still named by its id.
                custom_id = read_custom_id(value)
                _note(custom_id, seen)
                request = rules.check(value, size=line.length)
            except LineError as error:
                plan.reject(line, custom_id, error)
            else:
                plan.add(line, custom_id, request)
    if plan.total == 0:
        raise FileError("empty_file", "The file holds no request")


def _parse(line: Line) -> dict[str, Any]:
    if line.data is None:
        raise LineError(
            "line_too_large", f"The line has {line.length} bytes; at most {settings.BATCH_LINE_MAX_BYTES} are allowed"
        )
    return parse_request(line.data)


def _note(custom_id: str, seen: set[bytes]) -> None:
    # Digests, not ids: sixteen bytes each, however long the ids are.
    digest = blake2b(custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        raise LineError("duplicate_custom_id", "An earlier line has the same 'custom_id'", "custom_id")
    seen.add(digest)


def _fail(batch: Batch, plan: Plan, lease: Lease) -> None:
    with IncomingBlob() as blob:
        for record in plan.records():
            row = orjson.loads(record)
            if row["error"] is not None:
                blob.write(error_line(batch, line=row["line"], custom_id=row["custom_id"], error=row["error"]))
        close_failed(lease=lease, errors=plan.errors, error_blob=blob)


def _commit(plan: Plan, models: dict[str, BaseModel], lease: Lease) -> None:
    with tenant_scope(lease.organization_id):
        batch = lock_controlled_batch(lease=lease)
        if batch.closing_as:
            raise WorkCancelledError
        prices = {
            name: current_price(model=models[name], kind=Price.Kind.BATCH, completion_window=batch.completion_window)
            for name in plan.models
        }
        leases = [
            Lease(
                organization_id=batch.organization_id,
                kind=SHARD_KIND,
                model=shard.model,
                estimated_tokens=shard.tokens,
                deadline_at=batch.expires_at,
            )
            for shard in plan.shards
        ]
        Lease.objects.bulk_create(leases)
        Shard.objects.bulk_create(
            Shard(
                id=shard.id,
                organization_id=batch.organization_id,
                batch_id=batch.id,
                lease_id=shard_lease.id,
                model=shard.model,
                price=prices[shard.model],
                rows=shard.rows,
            )
            for shard, shard_lease in zip(plan.shards, leases, strict=True)
        )
        records = plan.records()
        while chunk := list(islice(records, INSERT_ROWS)):
            insert_rows(batch=batch, records=chunk)
        batch.status = Batch.Status.IN_PROGRESS
        batch.in_progress_at = timezone.now()
        batch.model = next(iter(plan.models)) if len(plan.models) == 1 else ""
        batch.errors = plan.errors
        batch.total, batch.failed = plan.total, plan.invalid
        batch.pending = plan.total - plan.invalid
        batch.save()
        complete_lease(lease=lease)
        if batch.pending == 0:
            start_assembly(batch=batch)
        for name in plan.models:
            ring_after_commit(model=name)
