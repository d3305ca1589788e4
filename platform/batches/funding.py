"""The money of a batch, and whether its shards may be handed out.

A shard is funded, its upper bound held, before it runs; each segment settles what its rows cost; what a finished shard
did not need is released. Without a cap all shards are funded at once or the batch fails; below a cap (``max_cost``) as
many as fit, and again whenever one has ended, so a batch can never cost more than its owner allowed.

Locks: leases, then the batch, then the hold and the accounts. Shards that are not funded are touched by nobody else
while their leases are locked.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum

from batches.models import Batch, Row, Shard
from billing.selectors import balance
from billing.services import place_hold, release_hold, settle_hold
from common.errors import HoneError
from common.money import format_usd
from fleet.models import Lease
from fleet.services import lock_open_leases, pause_leases, resume_leases
from tenants.scope import tenant_scope

logger = structlog.get_logger(__name__)

FUND_AHEAD = 32
"""Shards of a capped batch that are looked at when money has come free; each end of a shard looks at the next."""


@dataclass(frozen=True)
class _Room:
    """How much more may be held (nano-USD), and what stands in the way of more."""

    nanos: int
    limit: Batch.PauseReason


def check_funds(*, batch: Batch) -> None:
    """Raise ``insufficient_quota`` when the balance does not reach; nothing is held yet. Call inside the scope."""
    if batch.max_cost_nanos is None:
        available = balance(organization_id=batch.organization_id).available_nanos
        if available < batch.bound_nanos:
            raise HoneError(
                "insufficient_quota",
                f"The batch can cost up to ${format_usd(batch.bound_nanos)}, ${format_usd(available)} are available: "
                "add credit, lower max_tokens, or set max_cost to start with what there is",
            )


def fund_shards(*, batch: Batch) -> None:
    """Hold money for shards that are not funded and hand them out, as far as it reaches.

    Call inside the scope with the batch locked, and the leases of its unfunded shards locked or unknown to others.
    A batch without a cap gets all or raises ``insufficient_quota``; one with a cap pauses when nothing runs any more.
    """
    unfunded = _unfunded(batch)
    if batch.max_cost_nanos is None:
        _fund(batch, list(unfunded))
        return
    shards = list(unfunded[:FUND_AHEAD])
    if not shards:
        return
    running = Shard.objects.filter(batch_id=batch.id, is_funded=True, pending__gt=0)
    room = _room(batch, running)
    fitting = _fitting(shards, room.nanos)
    if not fitting and not running.exists():
        fitting = _split(shards[0], room.nanos)
    try:
        _fund(batch, fitting)
    except HoneError as error:  # somebody else was faster to the balance
        if error.code != "insufficient_quota":
            raise
        fitting, room = [], _Room(0, Batch.PauseReason.INSUFFICIENT_QUOTA)
    if batch.pause_reason != Batch.PauseReason.REQUESTED:
        _note_pause(batch, "" if fitting or running.exists() else room.limit)


def steer_batch(*, batch: Batch) -> None:
    """Bring a batch's leases in line with what its owner wishes and can pay; repeated whenever either has changed."""
    with tenant_scope(batch.organization_id):
        shards = Shard.objects.filter(batch_id=batch.id, pending__gt=0)
        is_stopped = Q(lease__state=Lease.State.PAUSED) | Q(lease__pause_requested_at__isnull=False)
        steered = Q(is_funded=True) & (is_stopped | Q(batch__pause_reason=Batch.PauseReason.REQUESTED))
        funded = list(shards.filter(steered).values_list("lease_id", flat=True))
        lock_open_leases(lease_ids=[*funded, *_unfunded(batch).values_list("lease_id", flat=True)[:FUND_AHEAD]])
        locked = Batch.objects.select_for_update().get(id=batch.id)
        if locked.status != Batch.Status.IN_PROGRESS or locked.closing_as:
            return
        if locked.pause_reason == Batch.PauseReason.REQUESTED:
            pause_leases(lease_ids=funded)
        else:
            resume_leases(lease_ids=funded)
            fund_shards(batch=locked)


def steer_after_commit(*, batch: Batch) -> None:
    """The batch's money or wishes have changed. Its locks must go first: leases are locked next."""
    transaction.on_commit(lambda: steer_batch(batch=batch), robust=True)


def steer_waiting_batches(*, limit: int = 500) -> None:
    """Repeat what a crash has left undone, and try again what waits for money."""
    # Found across tenants; each batch is then worked on in its own tenant's scope.
    shards = Shard.all_tenants.filter(batch=OuterRef("id"), pending__gt=0)
    must_stop = Q(pause_reason=Batch.PauseReason.REQUESTED) & Exists(shards.filter(lease__state=Lease.State.WAITING))
    may_go = Q(pause_reason__in=["", Batch.PauseReason.INSUFFICIENT_QUOTA]) & Exists(
        shards.filter(lease__state=Lease.State.PAUSED)
    )
    running = Batch.all_tenants.filter(status=Batch.Status.IN_PROGRESS, closing_as="")
    for batch in running.filter(must_stop | may_go).order_by("expires_at", "id")[:limit]:
        try:
            steer_batch(batch=batch)
        except Exception:  # one batch that cannot be steered must not keep the others waiting for ever
            logger.exception("batch not steered", job=batch.wire_id)


def steer_for_credit(organization_id: UUID) -> None:
    """The organisation has credit again: go on with what waits for it."""
    with tenant_scope(organization_id):
        waiting = list(
            Batch.objects.filter(
                status=Batch.Status.IN_PROGRESS, pause_reason=Batch.PauseReason.INSUFFICIENT_QUOTA
            ).order_by("expires_at", "id")
        )
    for batch in waiting:
        steer_batch(batch=batch)


def settle_segment(*, batch: Batch, shard: Shard, source: str, cost_nanos: int) -> None:
    """Rows of the shard are answered: charge them. Call inside the scope with lease, shard and batch locked."""
    settle_hold(organization_id=batch.organization_id, job=batch.wire_id, amount_nanos=cost_nanos, key=source)
    release_shard(batch=batch, shard=shard)


def release_shard(*, batch: Batch, shard: Shard) -> None:
    """Give back what a shard without pending rows did not need, and fund others from it. Call as settle_segment."""
    if shard.pending or not batch.pending:  # at the end of the batch all is released at once
        return
    release_hold(
        organization_id=batch.organization_id,
        job=batch.wire_id,
        amount_nanos=max(0, shard.bound_nanos - shard.cost_nanos),
        key=f"shard:{shard.id}",
    )
    if batch.max_cost_nanos is not None:
        steer_after_commit(batch=batch)


def release_batch(*, batch: Batch) -> None:
    """No row is pending any more: give back all that is still held. Call inside the scope with the batch locked."""
    release_hold(organization_id=batch.organization_id, job=batch.wire_id, key=f"end:{batch.wire_id}")


def _unfunded(batch: Batch) -> QuerySet[Shard]:
    return Shard.objects.filter(batch_id=batch.id, is_funded=False, pending__gt=0).order_by("id")


def _room(batch: Batch, running: QuerySet[Shard]) -> _Room:
    """What cap and balance leave, whichever is less."""
    held: int = running.aggregate(held=Sum(F("bound_nanos") - F("cost_nanos"), default=0))["held"]
    below_cap = (batch.max_cost_nanos or 0) - batch.cost_nanos - held
    available = balance(organization_id=batch.organization_id).available_nanos
    if below_cap <= available:
        return _Room(below_cap, Batch.PauseReason.MAX_COST)
    return _Room(available, Batch.PauseReason.INSUFFICIENT_QUOTA)


def _fitting(shards: list[Shard], room_nanos: int) -> list[Shard]:
    """The first of the shards, as many as fit."""
    totals = accumulate(shard.bound_nanos for shard in shards)
    return [shard for shard, total in zip(shards, totals, strict=True) if total <= room_nanos]


def _split(shard: Shard, room_nanos: int) -> list[Shard]:
    """Cut an unfunded shard so that its first rows fit; they alone are returned, or nothing when not one fits."""
    rows = Row.objects.filter(shard_id=shard.id, state=Row.State.PENDING).order_by("position")
    bounds = list(rows.values_list("position", "bound_nanos"))
    totals = list(accumulate(bound for _, bound in bounds))
    fitting = bisect_right(totals, room_nanos)
    if fitting in (0, len(bounds)):
        return [shard] if fitting else []
    lease = Lease.objects.get(id=shard.lease_id)
    tokens = lease.estimated_tokens * fitting // len(bounds)
    input_tokens = shard.input_tokens * fitting // len(bounds)
    first_lease = Lease.objects.create(
        organization_id=shard.organization_id,
        kind=lease.kind,
        model=lease.model,
        estimated_tokens=tokens,
        deadline_at=lease.deadline_at,
        state=Lease.State.PAUSED,
    )
    first = Shard.objects.create(
        organization_id=shard.organization_id,
        batch_id=shard.batch_id,
        lease=first_lease,
        model=shard.model,
        adapter_id=shard.adapter_id,
        price_id=shard.price_id,
        rows=fitting,
        pending=fitting,
        input_tokens=input_tokens,
        bound_nanos=totals[fitting - 1],
    )
    rows.filter(position__lt=bounds[fitting][0]).update(shard=first)
    # The rest keeps its identity, and with it its turn.
    shard.rows = shard.pending = len(bounds) - fitting
    shard.input_tokens -= input_tokens
    shard.bound_nanos -= first.bound_nanos
    shard.save(update_fields=["rows", "pending", "input_tokens", "bound_nanos"])
    Lease.objects.filter(id=lease.id).update(estimated_tokens=lease.estimated_tokens - tokens)
    return [first]


def _fund(batch: Batch, shards: list[Shard]) -> None:
    if not shards:
        return
    batch.holds += 1
    place_hold(
        organization_id=batch.organization_id,
        job=batch.wire_id,
        amount_nanos=sum(shard.bound_nanos for shard in shards),
        key=f"hold:{batch.wire_id}:{batch.holds}",
    )
    batch.save(update_fields=["holds"])
    Shard.objects.filter(id__in=[shard.id for shard in shards]).update(is_funded=True)
    if batch.pause_reason != Batch.PauseReason.REQUESTED:
        resume_leases(lease_ids=[shard.lease_id for shard in shards])


def _note_pause(batch: Batch, reason: str) -> None:
    if batch.pause_reason != reason:
        batch.pause_reason = reason
        batch.save(update_fields=["pause_reason"])
