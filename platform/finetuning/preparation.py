"""Preparation: data becomes what the trainer reads, ``auto`` becomes numbers, money is held, the training waits.

The data is prepared outside of any transaction; what came of it is committed in one, which the lease's epoch fences.
"""

from dataclasses import asdict
from typing import Any

from django.conf import settings
from structlog.contextvars import bound_contextvars

from catalog.models import Price
from catalog.selectors import current_prices
from common.errors import HoneError
from common.storage import discard_blobs
from files.inspection import RowProblem
from finetuning.artifacts import add_input
from finetuning.closing import fail_job
from finetuning.continuation import FOLDER, Origin, copy_origin
from finetuning.datasets import DatasetPart, DatasetRequest, PreparedDataset, prepare_dataset
from finetuning.events import WARN, tell
from finetuning.funding import hold_for, is_cap_near
from finetuning.hyperparameters import Choices, Hyperparameters, asked_for, max_seq_length, resolve
from finetuning.models import FineTuningJob, TrainingRun
from finetuning.recipes import get_recipe
from finetuning.selectors import get_leased_job
from finetuning.stages import TRAINING_KIND, lock_leased_job, queue_stage
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease, pause_leases
from tenants.scope import tenant_scope


def prepare_job(*, lease: Lease) -> None:
    """Prepare the job of this lease, or fail it with what is wrong with its data. May run twice."""
    with tenant_scope(lease.organization_id):
        job = get_leased_job(lease=lease)
    with bound_contextvars(job=job.wire_id):
        prepared = prepare_dataset(request=dataset_request(job), keep_alive=Heartbeat(lease))
        if prepared.problems:
            _fail(lease, "invalid_training_data", _complaint(prepared.problems), param=prepared.problems[0].param)
            return
        origin = copy_origin(job=job)
        try:
            _queue_training(lease, prepared, origin)
        except HoneError as error:
            # Refused, so that certainly nothing refers to them.
            discard_blobs(*(part.storage_key for part in _parts(prepared).values()), *_keys(origin))
            if error.code != "insufficient_quota":
                raise
            _fail(lease, error.code, error.message)


def dataset_request(job: FineTuningJob) -> DatasetRequest:
    """What decides the bytes of the job's data."""
    return DatasetRequest(
        training_file=job.training_file,
        validation_file=job.validation_file,
        base=job.base,
        method=job.method,
        recipe=job.recipe or None,
        column_mapping=job.column_mapping,
        max_seq_length=max_seq_length(job.hyperparameters, context_length=job.base.context_length),
        train_on=asked_for(job.hyperparameters, "train_on", "assistant"),
        validation_fraction=job.validation_fraction,
        seed=job.seed,
        max_evaluation_rows=settings.EVALUATION_MAX_ROWS,
    )


def _queue_training(lease: Lease, prepared: PreparedDataset, origin: Origin | None) -> None:
    with tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        choices = Choices(
            method=job.method,
            context_length=job.base.context_length,
            rows=prepared.train.rows,
            recipe=get_recipe(job.recipe).hyperparameters if job.recipe else {},
            lora=origin.lora if origin else None,
        )
        resolved = resolve(job.hyperparameters, choices)
        _note_what_is_known(job, prepared, resolved)
        for name, part in _parts(prepared).items():
            add_input(job=job, name=f"{name}.ndjson", sha256=part.sha256, size=part.bytes, key=part.storage_key)
        for name, file in (origin.files if origin else {}).items():
            add_input(job=job, name=f"{FOLDER}{name}", sha256=file.sha256, size=file.bytes, key=file.storage_key)
        complete_lease(lease=lease)
        training = queue_stage(
            job=job, kind=TRAINING_KIND, model=job.base.name, estimated_tokens=job.total_tokens
        )  # fmt: skip
        steps = resolved.steps(prepared.train.rows)
        TrainingRun.objects.create(
            organization_id=job.organization_id,
            job=job,
            lease=training,
            total_steps=steps,
            spec=resolved.to_spec(method=job.method, seed=job.seed, rows=prepared.train.rows),
        )
        hold_for(job=job)
        if not job.pause_reason and is_cap_near(job=job, tokens_per_second=0, step_tokens=job.total_tokens // steps):
            job.pause_reason = FineTuningJob.PauseReason.MAX_COST
            tell(job, "The job is paused: its cap does not pay for the first steps", level=WARN)
        if job.pause_reason:
            job.save(update_fields=["pause_reason"])
            pause_leases(lease_ids=[training.id])


def _note_what_is_known(job: FineTuningJob, prepared: PreparedDataset, resolved: Hyperparameters) -> None:
    price = current_prices(kind=Price.Kind.TRAINING)[job.base_id]
    job.status = FineTuningJob.Status.QUEUED
    job.resolved = asdict(resolved)
    job.dataset = {
        **{name: _facts(part) for name, part in _parts(prepared).items()},
        "skipped_rows": prepared.skipped_rows,
        "truncated_rows": prepared.truncated_rows,
        "labels": prepared.labels,
    }
    job.price = price
    job.total_tokens = prepared.train.tokens * resolved.n_epochs
    job.bound_nanos = job.total_tokens * price.input_nanos
    job.save(update_fields=["status", "resolved", "dataset", "price", "total_tokens", "bound_nanos"])
    tell(job, f"Files validated: {prepared.train.rows} examples, {prepared.train.tokens} tokens an epoch")
    for rows, what in ((prepared.skipped_rows, "left out"), (prepared.truncated_rows, "cut at max_seq_length")):
        if rows:
            tell(job, f"{rows} rows were {what}; the file's report names them", level=WARN)
    tell(job, f"The training waits for a node that trains '{job.base.name}'")


def _parts(prepared: PreparedDataset) -> dict[str, DatasetPart]:
    parts = {"train": prepared.train, "validation": prepared.validation, "evaluation": prepared.evaluation}
    return {name: part for name, part in parts.items() if part is not None}


def _keys(origin: Origin | None) -> list[str]:
    return [file.storage_key for file in origin.files.values()] if origin else []


def _facts(part: DatasetPart) -> dict[str, Any]:
    return {
        "sha256": part.sha256,
        "bytes": part.bytes,
        "rows": part.rows,
        "tokens": part.tokens,
        "trained_tokens": part.trained_tokens,
    }


def _complaint(problems: list[RowProblem]) -> str:
    first = problems[0]
    where = f"Line {first.line}{f', {first.pointer}' if first.pointer else ''}: " if first.line else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}{first.message}. {first.fix}{more}"


def _fail(lease: Lease, code: str, message: str, *, param: str | None = None) -> None:
    with tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        complete_lease(lease=lease)
        fail_job(job=job, code=code, message=message, param=param)
