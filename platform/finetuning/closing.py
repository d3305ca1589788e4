"""The ends of a job. Each is one transaction: state, money, files, what is told to whom.

Whoever ends a job from outside of its work locks the work first (:func:`lock_with_lease`), so that its holder either
has brought what it has before, or is refused from then on.
"""

from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from django.utils import timezone

from catalog.models import FineTunedModel
from catalog.publishing import mark_refused
from common.errors import HoneError
from files.services import release_file
from finetuning.artifacts import clear_artifacts
from finetuning.events import ERROR, INFO, tell
from finetuning.funding import release
from finetuning.models import FineTuningJob
from finetuning.selectors import get_job, get_leased_job, project_jobs
from finetuning.stages import CONCLUSION_KIND
from fleet.models import Lease
from fleet.services import revoke_leases
from notifications.services import emit_event
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

TRIES = 10
T = TypeVar("T")


def cancel_job(*, project: Project, wire_id: str, actor: str) -> FineTuningJob:
    """End a job now. What has been trained is charged, its checkpoints stay. Repeating it is harmless."""

    def cancel(job: FineTuningJob) -> FineTuningJob:
        if job.status == FineTuningJob.Status.CANCELLED:
            return job
        if job.is_terminal:
            raise HoneError("conflict", f"A job that has {job.status} cannot be cancelled", param="id")
        if job.lease is not None and job.lease.kind == CONCLUSION_KIND:
            raise HoneError("conflict", "The job's model is ready; the job cannot be cancelled any more", param="id")
        if job.lease_id is not None:
            revoke_leases(lease_ids=[job.lease_id])
        end_job(job=job, status=FineTuningJob.Status.CANCELLED, message="The job was cancelled", actor=actor)
        return job

    return with_locked_job(project=project, wire_id=wire_id, change=cancel)


def with_locked_job(*, project: Project, wire_id: str, change: Callable[[FineTuningJob], T]) -> T:
    """Apply a change to a job while both it and the work that carries it on are locked."""
    for _ in range(TRIES):
        with tenant_scope(project.organization_id):
            job = _lock_with_lease(project=project, wire_id=wire_id)
            if job is not None:
                return change(job)
    raise HoneError("service_unavailable", "The job is changing all the time; try again", retry_after=1)


def fail_job(*, job: FineTuningJob, code: str, message: str, param: str | None = None) -> None:
    """End a job that cannot go on. Call inside the scope, with its lease and the job locked."""
    job.error = {"code": code, "message": message, "param": param}
    end_job(job=job, status=FineTuningJob.Status.FAILED, message=f"The job failed: {message}", actor=SYSTEM_ACTOR)


def fail_after_trial(*, lease: Lease, message: str) -> None:
    """A model will never be ready; if it is a job's result, that fails. Inside the scope, with the lease locked."""
    if FineTuningJob.objects.filter(lease_id=lease.id).exists():
        fail_job(job=get_leased_job(lease=lease, lock=True), code="adapter_refused", message=message)


def end_job(*, job: FineTuningJob, status: FineTuningJob.Status, message: str, actor: str) -> None:
    """Nothing changes about the job from here on. Call inside the scope, with its lease and the job locked."""
    tell(job, message, level=ERROR if status == FineTuningJob.Status.FAILED else INFO)
    job.status = status
    job.finished_at = timezone.now()
    job.pause_reason = ""
    job.save(update_fields=["status", "finished_at", "pause_reason", "error"])
    if status != FineTuningJob.Status.SUCCEEDED and job.fine_tuned_model:
        model = FineTunedModel.objects.get(name=job.fine_tuned_model)
        mark_refused(model=model, reason=f"its job has {status}")  # unless a node has tried it in time
    clear_artifacts(job=job)
    for file_id in _files(job):
        release_file(file_id=file_id, holder=job.wire_id)
    record(
        actor=actor,
        action=f"fine_tuning_job.{status}",
        subject=job.wire_id,
        organization_id=job.organization_id,
        details={"trained_tokens": job.trained_tokens},
    )
    release(job=job)
    emit_event(
        organization_id=job.organization_id,
        project_id=job.project_id,
        type=f"fine_tuning.job.{status}",
        object_id=job.wire_id,
    )


def _lock_with_lease(*, project: Project, wire_id: str) -> FineTuningJob | None:
    """None when the job has gone on to other work between the two locks."""
    found = get_job(project=project, wire_id=wire_id)
    if found.lease_id is not None:
        Lease.objects.select_for_update().get(id=found.lease_id)
    locked = project_jobs(project=project).select_related("price").select_for_update(of=("self",)).get(id=found.id)
    return locked if locked.lease_id == found.lease_id else None


def _files(job: FineTuningJob) -> list[UUID]:
    return [file_id for file_id in (job.training_file_id, job.validation_file_id) if file_id is not None]
