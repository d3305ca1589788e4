"""Validation: the input file is read once, every line is checked, and the good ones become shards.

Near constant memory: what has been found out about the lines goes to a spool on disk, and from there to the
database in one short transaction that the lease's epoch fences. Kept in memory is what the order of execution needs,
some two hundred bytes a row.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any
from uuid import UUID

import orjson
from django.conf import settings
from django.db.models import Sum
from django.utils import timezone
from structlog.contextvars import bound_contextvars

from batches.closing import close_failed, lock_controlled_batch, start_assembly
from batches.funding import check_funds, fund_shards
from batches.models import TERMINAL, Batch, Row, Shard
from batches.prefixes import execution_order
from batches.requests import LineError, LineRequest
from batches.results import error_line
from batches.rows import insert_rows, row_record
from batches.scan import Found, line_rules, scan
from batches.selectors import get_controlled_batch
from catalog.models import Price
from catalog.publishing import hold_ready
from catalog.selectors import ServedModel, limits_of
from common.errors import HoneError
from common.ids import uuid7
from common.storage import IncomingBlob, open_spool
from files.lines import FileError
from fleet.heartbeat import Heartbeat, WorkCancelledError
from fleet.models import Lease
from fleet.selectors import node_tokens_per_second
from fleet.services import complete_lease
from tenants.models import Project
from tenants.scope import tenant_scope

MAX_LISTED_ERRORS = 2_000
"""Bad lines named in the batch object itself; the error file names all of them."""
INSERT_ROWS = 5_000
SHARD_KIND = "batch_shard"
TUNED_SHARD_KIND = "tuned_shard"


@dataclass
class ShardPlan:
    """Rows of one model that will be leased together."""

    model: ServedModel
    price: Price
    max_tokens: int
    id: UUID = field(default_factory=uuid7)
    rows: int = 0
    tokens: int = 0
    input_tokens: int = 0
    bound_nanos: int = 0

    @property
    def is_full(self) -> bool:
        """About ten seconds of work, or as many rows as a lease may hold."""
        full: bool = self.tokens >= self.max_tokens or self.rows >= settings.BATCH_SHARD_MAX_ROWS
        return full


@dataclass(frozen=True, slots=True)
class _Runnable:
    """What is remembered of a line that can run."""

    line: int
    model: ServedModel
    price: Price
    tokens: int
    input_tokens: int
    bound_nanos: int
    prefix: bytes


class Plan:
    """What one pass over the file has found; the lines themselves stand in the spool, in order."""

    def __init__(self, spool: IO[bytes]) -> None:
        self.errors: list[dict[str, Any]] = []
        self.total = 0
        self.invalid = 0
        self.bound_nanos = 0
        self._runnable: list[_Runnable] = []
        self._spool = spool

    @property
    def models(self) -> dict[str, ServedModel]:
        """All models that lines ask for, by name."""
        return {row.model.name: row.model for row in self._runnable}

    def add(self, found: Found) -> None:
        """The next line."""
        self.total += 1
        error = None
        match found.outcome:
            case LineRequest() as request:
                self.bound_nanos += request.bound_nanos
                self._runnable.append(
                    _Runnable(
                        line=found.line.number,
                        model=request.offer.served,
                        price=request.offer.price,
                        tokens=request.input_tokens + request.output_tokens,
                        input_tokens=request.input_tokens,
                        bound_nanos=request.bound_nanos,
                        prefix=request.prefix,
                    )
                )
            case LineError() as complaint:
                self.invalid += 1
                error = {"code": complaint.code, "message": complaint.message, "param": complaint.param}
                if len(self.errors) < MAX_LISTED_ERRORS:
                    self.errors.append({**error, "line": found.line.number})
        self._spool.write(row_record(line=found.line, custom_id=found.custom_id, error=error))

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines, in the file's order."""
        self._spool.seek(0)
        yield from map(orjson.loads, self._spool)

    def shards(self) -> tuple[list[ShardPlan], dict[int, dict[str, Any]]]:
        """The shards in the order in which they should run; and by line number a row's shard, position and bound."""
        shards: list[ShardPlan] = []
        places: dict[int, dict[str, Any]] = {}
        open_shards: dict[str, ShardPlan] = {}
        sizes = {name: _shard_tokens(model.base.name) for name, model in self.models.items()}
        for position, index in enumerate(execution_order(self._runnable)):
            row = self._runnable[index]
            name = row.model.name
            shard = open_shards.get(name)
            if shard is None or shard.is_full:
                shard = open_shards[name] = ShardPlan(row.model, row.price, sizes[name])
                shards.append(shard)
            shard.rows += 1
            shard.tokens += row.tokens
            shard.input_tokens += row.input_tokens
            shard.bound_nanos += row.bound_nanos
            places[row.line] = {"shard": shard.id, "position": position, "bound": row.bound_nanos}
        return shards, places


def validate_batch(*, lease: Lease) -> None:
    """Read, check and shard the batch of this lease, or fail it with every bad line named. May run twice."""
    with tenant_scope(lease.organization_id):
        batch = get_controlled_batch(lease=lease)
        rules = line_rules(
            key=batch.api_key,
            endpoint=batch.endpoint,
            completion_window=batch.completion_window,
            aliases=batch.aliases,
        )
        only = retried_lines(batch=batch)
    beat = Heartbeat(lease)
    with bound_contextvars(job=batch.wire_id), open_spool() as spool:
        plan = Plan(spool)
        try:
            for found in scan(storage_key=batch.input_file.storage_key, rules=rules, only=only):
                beat()
                plan.add(found)
        except FileError as error:
            _fail_whole(lease, error.code, error.message)
            return
        if plan.invalid and batch.on_invalid == Batch.OnInvalid.FAIL:
            _fail(batch, plan, lease)
            return
        try:
            _commit(plan, lease)
        except HoneError as error:
            if error.code not in ("insufficient_quota", "token_limit_exceeded", "model_not_found"):
                raise
            _fail_whole(lease, error.code, error.message)


def retried_lines(*, batch: Batch) -> frozenset[int] | None:
    """The lines of the input that a retry runs again: those that could run and have no success. None is all."""
    if batch.retry_of_id is None:
        return None
    rows = Row.objects.filter(batch_id=batch.retry_of_id, shard__isnull=False)
    return frozenset(rows.exclude(state=Row.State.COMPLETED).values_list("line", flat=True))


def _shard_tokens(model: str) -> int:
    """About ten seconds of work for a node, by what nodes have reported of this model."""
    tokens = node_tokens_per_second(model=model) * settings.BATCH_SHARD_SECONDS
    return int(tokens) or int(settings.BATCH_SHARD_TOKENS)


def _fail_whole(lease: Lease, code: str, message: str) -> None:
    close_failed(lease=lease, errors=[{"code": code, "message": message, "param": None, "line": None}])


def _fail(batch: Batch, plan: Plan, lease: Lease) -> None:
    with IncomingBlob() as blob:
        for row in plan.records():
            if row["error"] is not None:
                blob.write(error_line(batch, line=row["line"], custom_id=row["custom_id"], error=row["error"]))
        close_failed(lease=lease, errors=plan.errors, error_blob=blob)


def _commit(plan: Plan, lease: Lease) -> None:
    shards, places = plan.shards()
    with tenant_scope(lease.organization_id):
        batch = lock_controlled_batch(lease=lease)
        if batch.closing_as:
            raise WorkCancelledError
        batch.bound_nanos = plan.bound_nanos
        check_funds(batch=batch)  # before the long part; what counts is the hold at the end
        leases = [
            Lease(
                organization_id=batch.organization_id,
                kind=TUNED_SHARD_KIND if shard.model.adapter else SHARD_KIND,
                model=shard.model.base.name,
                estimated_tokens=shard.tokens,
                deadline_at=batch.expires_at,
                state=Lease.State.PAUSED,
            )
            for shard in shards
        ]
        Lease.objects.bulk_create(leases)
        Shard.objects.bulk_create(
            Shard(
                id=shard.id,
                organization_id=batch.organization_id,
                batch_id=batch.id,
                lease_id=shard_lease.id,
                model=shard.model.name,
                adapter=shard.model.adapter,
                price=shard.price,
                rows=shard.rows,
                pending=shard.rows,
                input_tokens=shard.input_tokens,
                bound_nanos=shard.bound_nanos,
            )
            for shard, shard_lease in zip(shards, leases, strict=True)
        )
        records = plan.records()
        while chunk := list(islice(records, INSERT_ROWS)):
            insert_rows(batch=batch, records=[record | places.get(record["line"], {}) for record in chunk])
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
        else:
            _check_token_limits(plan, batch)
            adapters = [model.adapter.id for model in plan.models.values() if model.adapter]
            hold_ready(model_ids=adapters)  # after this commit the shards keep them from being deleted
            # Nobody else knows the leases yet, so they may be locked after the batch.
            fund_shards(batch=batch)


def _check_token_limits(plan: Plan, batch: Batch) -> None:
    """Raise ``token_limit_exceeded`` when a project has more input queued of a model than it may, this batch included.

    Of a base model counts all that is queued for it, whatever adapter is on it. Call after the shards have been
    inserted: the project's row makes batches that are validated at once count one after the other, and see each
    other's.
    """
    Project.objects.select_for_update(no_key=True).get(id=batch.project_id)
    names = {*plan.models, *(model.base.name for model in plan.models.values())}
    queued = Shard.objects.filter(batch__project_id=batch.project_id, pending__gt=0)
    queued = queued.exclude(batch__status__in=TERMINAL)  # of those nothing is pending: only to find the others faster
    tokens: Counter[str] = Counter()
    for name, base, sum_ in queued.values_list("model", "lease__model").annotate(Sum("input_tokens")):
        tokens[base] += sum_
        if name != base:
            tokens[name] += sum_
    for limits in limits_of(project_id=batch.project_id, models=sorted(names)):
        if tokens[limits.model] > limits.batch_input_tokens:
            raise HoneError(
                "token_limit_exceeded",
                f"With this batch {tokens[limits.model]} input tokens would be queued for '{limits.model}'; the "
                f"project may have {limits.batch_input_tokens}: try again when other batches have ended",
            )
