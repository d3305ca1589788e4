"""Why a batch is where it is: its place in the queue, what it waits for, when it should be done."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min, Q, Sum
from django.db.models.functions import Now
from django.utils import timezone

from batches.models import Batch, Segment, Shard
from batches.validation import SHARD_KIND
from fleet.models import Lease
from fleet.selectors import ready_models, waiting_organizations

PACE_SECONDS = 120
"""The pace of a batch is that of its last segments."""


@dataclass(frozen=True)
class Progress:
    """What a customer wants to know while a batch is not done."""

    waiting_reason: str | None = None
    """``paused``, ``max_cost``, ``insufficient_quota``, ``no_node`` (none serves the model), ``retrying`` (after a
    failure), ``queued``, ``held`` (an operator must look); None while it runs."""
    queue_position: int | None = None
    """Its turn among the organisation's own batches and the other organisations that wait; None unless queued."""
    estimated_finish_at: datetime | None = None


def progress_of(*, batch: Batch) -> Progress:
    """Of one batch, inside the scope."""
    if batch.status == Batch.Status.FINALIZING and batch.held_reason:
        return Progress(waiting_reason="held")
    if batch.is_terminal:
        return Progress()
    if batch.pause_reason:
        is_requested = batch.pause_reason == Batch.PauseReason.REQUESTED
        return Progress(waiting_reason="paused" if is_requested else batch.pause_reason)
    if batch.status != Batch.Status.IN_PROGRESS:
        return Progress()
    shards = Shard.objects.filter(batch_id=batch.id, pending__gt=0)
    if shards.filter(lease__state=Lease.State.LEASED).exists():
        return Progress(estimated_finish_at=_estimated_finish(batch))
    waiting = shards.filter(lease__state=Lease.State.WAITING)
    models = set(waiting.values_list("lease__model", flat=True).distinct())
    if not models & ready_models():
        return Progress(waiting_reason="no_node")
    if not waiting.filter(lease__not_before__lte=Now()).exists():
        return Progress(waiting_reason="retrying")
    return Progress(waiting_reason="queued", queue_position=_queue_position(batch, models))


def _estimated_finish(batch: Batch) -> datetime | None:
    now = timezone.now()
    since = now - timedelta(seconds=PACE_SECONDS)
    done = Segment.objects.filter(batch_id=batch.id, created_at__gte=since).aggregate(
        rows=Sum("rows", default=0), first=Min("created_at")
    )
    started = max(since, batch.in_progress_at or since)
    if not done["rows"]:
        return None
    rows: int = done["rows"]
    return now + (now - started) * batch.pending / rows


def _queue_position(batch: Batch, models: set[str]) -> int:
    earlier = Q(batch__expires_at__lt=batch.expires_at) | Q(batch__expires_at=batch.expires_at, batch_id__lt=batch.id)
    ahead = Shard.objects.filter(earlier, lease__model__in=models, lease__state=Lease.State.WAITING)
    own: int = ahead.aggregate(batches=Count("batch_id", distinct=True))["batches"]
    others = waiting_organizations(kind=SHARD_KIND, models=models, besides=batch.organization_id)
    return 1 + own + others
