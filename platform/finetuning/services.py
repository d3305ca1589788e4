"""What a customer does with fine-tuning jobs: create, pause, resume. How they end: :mod:`finetuning.closing`."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from common.errors import HoneError
from files.models import StoredFile
from files.services import hold_file, lock_file
from finetuning.closing import with_locked_job
from finetuning.continuation import starting_point
from finetuning.events import tell
from finetuning.funding import hold_for, is_cap_near
from finetuning.gates import as_request, parse_gate
from finetuning.models import FineTuningJob
from finetuning.shaping import shape_of
from finetuning.stages import PREPARATION_KIND, TRAINING_KIND, queue_stage
from fleet.services import pause_leases, resume_leases
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope
from tenants.services import record

MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What a customer asks for."""

    model: str
    training_file: str
    validation_file: str | None = None
    method: FineTuningJob.Method = FineTuningJob.Method.SUPERVISED
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    seed: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    recipe: str = ""
    column_mapping: dict[str, Any] | None = None
    validation_fraction: float = 0
    promote_if: Any = None
    alias: str = ""
    max_cost_nanos: int | None = None


def create_job(*, project: Project, key: ApiKey, new: NewJob, request: CreateRequest) -> FineTuningJob:
    """Accept a job and queue the preparation of its data; a repetition of ``request`` gets the job made then.

    Its files cannot be deleted until the job has ended.
    """
    shape_of(recipe=new.recipe or None, column_mapping=new.column_mapping)  # says what is wrong with either
    if new.hyperparameters.get("early_stopping") and not (new.validation_file or new.validation_fraction):
        raise HoneError(
            "invalid_value",
            "'early_stopping' needs rows to judge by: give a validation_file or a validation_fraction",
            param=f"method.{new.method}.hyperparameters.early_stopping",
        )
    gate = _checked_gate(new)
    with tenant_scope(project.organization_id):
        made = earlier(request, FineTuningJob)
        if made is not None:
            return made
        start = starting_point(
            key=key, model=new.model, method=new.method, hyperparameters=new.hyperparameters
        )  # fmt: skip
        training_file = _lock_training_file(project, new.training_file, "training_file")
        validation_file = None
        if new.validation_file is not None:
            validation_file = _lock_training_file(project, new.validation_file, "validation_file")
        job = FineTuningJob.objects.create(
            organization_id=project.organization_id,
            project_id=project.id,
            api_key_id=key.id,
            base=start.base,
            base_revision=start.base.revision,
            model=new.model,
            continued_from=start.adapter.name if start.adapter else "",
            method=new.method,
            hyperparameters=new.hyperparameters,
            suffix=new.suffix,
            seed=secrets.randbelow(MAX_SEED) if new.seed is None else new.seed,
            metadata=new.metadata,
            recipe=new.recipe,
            column_mapping=new.column_mapping,
            validation_fraction=0 if validation_file else new.validation_fraction,
            promote_if=gate,
            alias=new.alias,
            training_file=training_file,
            validation_file=validation_file,
            max_cost_nanos=new.max_cost_nanos,
        )
        for file in (training_file, validation_file):
            if file is not None:
                hold_file(file=file, holder=job.wire_id)
        queue_stage(job=job, kind=PREPARATION_KIND)
        tell(job, "Created fine-tuning job; its files are being validated")
        record(
            actor=key.actor,
            action="fine_tuning_job.created",
            subject=job.wire_id,
            organization_id=project.organization_id,
            details={"model": new.model, "training_file": training_file.wire_id, "method": new.method},
        )
        remember(request, job)
    return job


def pause_job(*, project: Project, wire_id: str, actor: str) -> FineTuningJob:
    """Train no more until the job is resumed: its trainer saves a checkpoint and ends. Repeating it is harmless."""

    def pause(job: FineTuningJob) -> FineTuningJob:
        _require_pausable(job, "paused")
        if job.pause_reason != FineTuningJob.PauseReason.REQUESTED:
            job.pause_reason = FineTuningJob.PauseReason.REQUESTED
            job.save(update_fields=["pause_reason"])
            tell(job, "The job is to pause")
            record(actor=actor, action="fine_tuning_job.paused", subject=wire_id, organization_id=job.organization_id)
        if job.lease is not None and job.lease.kind == TRAINING_KIND:
            pause_leases(lease_ids=[job.lease.id])
        return job

    return with_locked_job(project=project, wire_id=wire_id, change=pause)


def resume_job(*, project: Project, wire_id: str, actor: str, max_cost_nanos: int | None = None) -> FineTuningJob:
    """Train on, with another cap if one is given; the job stays paused where that still forbids the next steps.

    ``insufficient_quota`` when there is less credit than a higher cap needs; nothing has changed then.
    """

    def resume(job: FineTuningJob) -> FineTuningJob:
        _require_pausable(job, "resumed")
        details: dict[str, int] = {}
        if max_cost_nanos is not None:
            if job.max_cost_nanos is None or max_cost_nanos < job.max_cost_nanos:
                raise HoneError("invalid_value", "'max_cost' can only be raised", param="max_cost")
            job.max_cost_nanos = details["max_cost_nanos"] = max_cost_nanos
        is_prepared = job.lease is not None and job.lease.kind == TRAINING_KIND
        was_paused = bool(job.pause_reason)
        job.pause_reason = ""
        record(
            actor=actor,
            action="fine_tuning_job.resumed",
            subject=wire_id,
            organization_id=job.organization_id,
            details=details,
        )
        if is_prepared:
            hold_for(job=job)
            step_tokens = job.total_tokens // job.run.total_steps
            if is_cap_near(job=job, tokens_per_second=0, step_tokens=step_tokens):
                job.pause_reason = FineTuningJob.PauseReason.MAX_COST
        job.save(update_fields=["pause_reason", "max_cost_nanos"])
        if job.pause_reason:
            tell(job, "The job stays paused: its cap does not pay for the next steps")
        elif was_paused:
            tell(job, "The job was resumed")
            if job.lease is not None and is_prepared:
                resume_leases(lease_ids=[job.lease.id])
        return job

    return with_locked_job(project=project, wire_id=wire_id, change=resume)


def _checked_gate(new: NewJob) -> list[dict[str, Any]] | None:
    """The conditions of ``promote_if``, as they are stored; they need an alias to move and rows to judge by."""
    if new.promote_if is None:
        return None
    conditions = parse_gate(new.promote_if)
    if not new.alias:
        raise HoneError(
            "missing_required_parameter", "'promote_if' decides whether an alias moves: name the 'alias'", param="alias"
        )
    if not (new.validation_file or new.validation_fraction):
        raise HoneError(
            "invalid_value",
            "'promote_if' needs rows to judge by: give a validation_file or a validation_fraction",
            param="promote_if",
        )
    return as_request(conditions)


def _lock_training_file(project: Project, wire_id: str, param: str) -> StoredFile:
    file = lock_file(project=project, wire_id=wire_id, param=param)
    if file.purpose != StoredFile.Purpose.FINE_TUNE:
        raise HoneError(
            "invalid_purpose",
            f"The file has the purpose '{file.purpose}'; upload it with the purpose 'fine-tune'",
            param=param,
        )
    return file


def _require_pausable(job: FineTuningJob, done: str) -> None:
    if job.is_terminal or job.lease is None or job.lease.kind not in (PREPARATION_KIND, TRAINING_KIND):
        state = f"has {job.status}" if job.is_terminal else "has been trained already"
        raise HoneError("conflict", f"A job that {state} cannot be {done}", param="id")
