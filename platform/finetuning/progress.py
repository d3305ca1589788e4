"""Why a job is where it is: its place in the queue, what it waits for, when it should be done."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from finetuning.models import FineTuningJob, MetricPoint
from finetuning.stages import TRAINING_KIND
from fleet.models import Lease
from fleet.selectors import open_tokens, training_places, waiting_organizations


@dataclass(frozen=True)
class Progress:
    """What a customer wants to know while a job is not done."""

    waiting_reason: str | None = None
    """``paused``, ``max_cost``, ``no_node`` (none trains the model), ``retrying`` (after a failure), ``queued``; None
    while it is worked on."""
    queue_position: int | None = None
    """Its turn among the organisation's own jobs and the other organisations that wait; None unless queued."""
    estimated_finish_at: datetime | None = None
    """Of the training, at its own pace or at what nodes have last reported of this model; with everything before it."""


def progress_of(*, job: FineTuningJob) -> Progress:
    """Of one job, inside the scope."""
    if job.is_terminal or job.lease is None or job.lease.kind != TRAINING_KIND:
        return Progress(waiting_reason="paused") if job.pause_reason else Progress()
    if job.pause_reason:
        is_requested = job.pause_reason == FineTuningJob.PauseReason.REQUESTED
        return Progress(waiting_reason="paused" if is_requested else job.pause_reason)
    left = job.total_tokens - job.trained_tokens
    if job.lease.state == Lease.State.LEASED:
        newest = MetricPoint.objects.filter(job_id=job.id).order_by("-step").first()
        pace = newest.tokens_per_second if newest else training_places(model=job.base.name).tokens_per_second
        return Progress(estimated_finish_at=_after(left, pace))
    places = training_places(model=job.base.name)
    if not places.nodes:
        return Progress(waiting_reason="no_node")
    if Lease.objects.filter(id=job.lease.id, not_before__gt=Now()).exists():
        return Progress(waiting_reason="retrying")
    ahead = _ahead_of(job)
    own = [other for other in ahead if other.lease is not None and other.lease.state == Lease.State.WAITING]
    others = waiting_organizations(kind=TRAINING_KIND, models={job.base.name}, besides=job.organization_id)
    tokens = left + sum(other.total_tokens - other.trained_tokens for other in ahead)
    tokens += open_tokens(kind=TRAINING_KIND, model=job.base.name, besides=job.organization_id)
    return Progress(
        waiting_reason="queued",
        queue_position=1 + len(own) + others,
        estimated_finish_at=_after(tokens, places.tokens_per_second * places.nodes),
    )


def _ahead_of(job: FineTuningJob) -> list[FineTuningJob]:
    """The organisation's own jobs that are trained on the model now or before this one."""
    earlier = Q(created_at__lt=job.created_at) | Q(created_at=job.created_at, lease_id__lt=job.lease_id)
    return list(
        FineTuningJob.objects.filter(
            earlier,
            base_id=job.base_id,
            lease__kind=TRAINING_KIND,
            lease__state__in=(Lease.State.WAITING, Lease.State.LEASED),
        ).select_related("lease")
    )


def _after(tokens: int, tokens_per_second: float) -> datetime | None:
    return timezone.now() + timedelta(seconds=tokens / tokens_per_second) if tokens_per_second else None
