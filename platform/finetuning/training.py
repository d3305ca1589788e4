"""The training of a job as the control plane sees it: claimed, reported on, let go of, done."""

from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from common.errors import CODES, HoneError
from finetuning.artifacts import (
    ADAPTER,
    INPUTS,
    artifacts_of,
    checkpoint_folder,
    references,
    remove_older_states,
    require_files,
)
from finetuning.closing import fail_job
from finetuning.events import ERROR, INFO, WARN, tell, tell_all
from finetuning.funding import is_cap_near, settle
from finetuning.models import Checkpoint, FineTuningJob, MetricPoint, TrainingRun
from finetuning.selectors import get_leased_job, metrics_of
from finetuning.stages import CHECKPOINT_KIND, PUBLICATION_KIND, lock_leased_job, queue_stage
from fleet.models import Lease
from fleet.services import create_lease, lock_lease, note_progress, pause_leases
from inference_workers.protocol import (
    ADAPTER_FILES,
    MAX_EVENTS,
    STATE_FILES,
    ResumePoint,
    TrainingEvent,
    TrainingEventKind,
    TrainingWork,
)
from tenants.scope import tenant_scope

_MORE = ("train_example_accuracy", "valid_example_accuracy", "train_reward_margin", "valid_reward_margin")
_LEVELS = {"info": INFO, "warn": WARN, "warning": WARN, "error": ERROR}
MAX_MESSAGE = 2_000


@dataclass
class _News:
    """What some events of the trainer amount to."""

    told: list[dict[str, Any]] = field(default_factory=list)
    points: list[MetricPoint] = field(default_factory=list)
    checkpoints: list[TrainingEvent] = field(default_factory=list)
    is_done: bool = False


def begin_training(*, lease: Lease) -> None:
    """A node has claimed the training."""
    with tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        if job.status == FineTuningJob.Status.QUEUED:
            job.status = FineTuningJob.Status.RUNNING
            job.started_at = job.started_at or timezone.now()
            job.save(update_fields=["status", "started_at"])
            tell(job, "The training goes on" if job.trained_tokens else "The training has started")


def describe_training(*, lease: Lease) -> TrainingWork:
    """What its holder needs to know: the spec, the data, and where to go on from. Inside the scope."""
    run = TrainingRun.objects.select_related("job").get(lease_id=lease.id)
    artifacts = list(artifacts_of(run.job))
    newest = Checkpoint.objects.filter(job_id=run.job_id).order_by("-step").first()
    resume = None
    if newest is not None:
        folder = checkpoint_folder(newest.step)
        files = references((found for found in artifacts if found.path.startswith(folder)), below=folder)
        resume = ResumePoint(step=newest.step, files=files)
    inputs = (found for found in artifacts if found.path.startswith(INPUTS))
    return TrainingWork(
        job_id=run.job.wire_id,
        base_revision=run.job.base_revision,
        spec=run.spec,
        inputs=references(inputs, below=INPUTS),
        resume=resume,
        events_seen=run.events_seen,
    )


def take_events(*, lease: Lease, events: list[TrainingEvent]) -> None:
    """Note what the trainer has reported; of what is known already nothing happens again.

    ``events_out_of_order`` where events are missing in between, ``artifacts_missing`` for a checkpoint without files.
    """
    if len(events) > MAX_EVENTS:
        raise HoneError("invalid_request", f"At most {MAX_EVENTS} events may come at once")
    with tenant_scope(lease.organization_id):
        held = lock_lease(lease_id=lease.id, epoch=lease.epoch)
        job = get_leased_job(lease=held, lock=True)
        run = TrainingRun.objects.get(lease_id=held.id)
        fresh = [event for event in events if event.seq > run.events_seen]
        if [event.seq for event in fresh] != list(range(run.events_seen + 1, run.events_seen + 1 + len(fresh))):
            raise HoneError("events_out_of_order", f"The next event has the number {run.events_seen + 1}")
        if not fresh:
            return
        news = _sort(job, run, fresh)
        MetricPoint.objects.bulk_create(news.points)
        run.events_seen += len(fresh)
        run.is_done = run.is_done or news.is_done
        run.step = max([run.step, *(point.step for point in news.points)])
        run.save(update_fields=["events_seen", "is_done", "step"])
        for event in news.checkpoints:
            _keep_checkpoint(job, event)
            note_progress(lease=held)
        tell_all(job, news.told)
        job.trained_tokens = max(job.trained_tokens, *(event.trained_tokens for event in fresh))
        job.save(update_fields=["trained_tokens"])
        if news.points and not news.is_done:
            _mind_the_cap(job, run, news.points[-1])
        settle(job=job, is_final=news.is_done)


def let_go_of_training(*, lease: Lease) -> None:
    """The holder has given the training back or was lost. Inside the scope, with the lease locked."""
    job = get_leased_job(lease=lease, lock=True)
    job.status = FineTuningJob.Status.QUEUED
    job.save(update_fields=["status"])
    if lease.state == Lease.State.PAUSED:
        tell(job, "The training is paused")
    else:
        reason = (lease.failure or {}).get("message", "")
        tell(job, f"The training was interrupted and will go on from its last checkpoint: {reason}", level=WARN)
    settle(job=job, is_final=True)


def complete_training(*, lease: Lease) -> None:
    """The trainer is done and everything has arrived: the model is published next. Inside the scope, lease locked."""
    job = get_leased_job(lease=lease, lock=True)
    run = TrainingRun.objects.get(lease_id=lease.id)
    if not run.is_done:
        raise HoneError("artifacts_missing", "The trainer has not reported yet that it is done")
    require_files(job=job, below=ADAPTER, names=ADAPTER_FILES)
    job.pause_reason = ""
    job.save(update_fields=["pause_reason"])
    tell(job, f"The training is done after {run.step} steps; the model is being published")
    queue_stage(job=job, kind=PUBLICATION_KIND)
    settle(job=job, is_final=True)


def fail_training(*, lease: Lease, code: str, message: str) -> None:
    """Nothing more will be tried. Inside the scope, with the lease locked."""
    job = get_leased_job(lease=lease, lock=True)
    fail_job(job=job, code=code if code in CODES else "training_failed", message=message)


def _sort(job: FineTuningJob, run: TrainingRun, events: list[TrainingEvent]) -> _News:
    steps = [event.step for event in events if event.kind == TrainingEventKind.METRICS]
    known = set(metrics_of(job_id=job.id, steps=steps))
    news = _News()
    for event in events:
        match event.kind:
            case TrainingEventKind.METRICS if event.step not in known:
                known.add(event.step)
                news.points.append(_point(job, event))
                loss = "" if event.train_loss is None else f": training loss {event.train_loss:.4f}"
                news.told.append({"message": f"Step {event.step}/{run.total_steps}{loss}", "step": event.step})
            case TrainingEventKind.MESSAGE:
                level = _LEVELS.get(event.level, INFO)
                news.told.append({"message": event.message[:MAX_MESSAGE], "level": level})
            case TrainingEventKind.CHECKPOINT:
                news.checkpoints.append(event)
                if not event.interim:
                    news.told.append({"message": f"Checkpoint created at step {event.step}"})
            case TrainingEventKind.DONE:
                news.is_done = True
            case TrainingEventKind.FAILED:
                news.told.append({"message": event.message[:MAX_MESSAGE], "level": ERROR})
    return news


def _point(job: FineTuningJob, event: TrainingEvent) -> MetricPoint:
    return MetricPoint(
        organization_id=job.organization_id,
        job_id=job.id,
        step=event.step,
        epoch=event.epoch,
        train_loss=event.train_loss,
        train_token_accuracy=event.train_token_accuracy,
        valid_loss=event.valid_loss,
        valid_token_accuracy=event.valid_token_accuracy,
        learning_rate=event.learning_rate,
        grad_norm=event.grad_norm,
        tokens_per_second=event.tokens_per_second,
        trained_tokens=event.trained_tokens,
        more={name: value for name in _MORE if (value := getattr(event, name)) is not None},
    )


def _keep_checkpoint(job: FineTuningJob, event: TrainingEvent) -> None:
    if Checkpoint.objects.filter(job_id=job.id, step=event.step).exists():
        return
    require_files(job=job, below=checkpoint_folder(event.step), names=[*ADAPTER_FILES, *STATE_FILES])
    publication = None
    if not event.interim:
        publication = create_lease(
            organization_id=job.organization_id,
            kind=CHECKPOINT_KIND,
            model="",
            estimated_tokens=0,
            deadline_at=job.created_at,
        )
    Checkpoint.objects.create(
        organization_id=job.organization_id,
        job_id=job.id,
        step=event.step,
        is_interim=event.interim,
        metrics=event.metrics,
        lease=publication,
    )
    remove_older_states(job=job, step=event.step)


def _mind_the_cap(job: FineTuningJob, run: TrainingRun, newest: MetricPoint) -> None:
    """Pause in time: what the trainer still does until it hears of it should be paid for, too."""
    step_tokens = job.total_tokens // run.total_steps
    is_near = is_cap_near(job=job, tokens_per_second=newest.tokens_per_second, step_tokens=step_tokens)
    if is_near and not job.pause_reason:
        job.pause_reason = FineTuningJob.PauseReason.MAX_COST
        job.save(update_fields=["pause_reason"])
        tell(job, "The training pauses before it could cost more than max_cost", level=WARN)
        pause_leases(lease_ids=[run.lease_id])
