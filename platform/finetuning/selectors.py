"""Reads about fine-tuning jobs."""

import re
from typing import Any
from uuid import UUID

from django.db.models import Model, Q, QuerySet

from common.errors import HoneError, not_found
from common.ids import from_wire, to_wire
from common.pagination import Page, PageRequest
from finetuning.models import Artifact, Checkpoint, FineTuningJob, JobEvent, MetricPoint
from fleet.models import Lease
from tenants.models import Project
from tenants.scope import tenant_scope

IS_WAITING = Q(status=FineTuningJob.Status.QUEUED) | Q(status=FineTuningJob.Status.RUNNING) & ~Q(pause_reason="")
"""What customers see as *queued*: also what is paused and has not been let go of yet."""


def project_jobs(*, project: Project) -> QuerySet[FineTuningJob]:
    """Jobs of a project, with what their objects show."""
    jobs = FineTuningJob.objects.filter(project_id=project.id)
    return jobs.select_related("base", "lease", "run", "organization")


def filter_jobs(
    jobs: QuerySet[FineTuningJob], *, status: str | None, model: str | None, metadata: dict[str, str] | None
) -> QuerySet[FineTuningJob]:
    """Those in this state, of this model, with all these pairs of metadata (None: those without any)."""
    if status == FineTuningJob.Status.QUEUED:
        jobs = jobs.filter(IS_WAITING)
    elif status == FineTuningJob.Status.RUNNING:
        jobs = jobs.filter(status=status, pause_reason="")
    elif status:
        jobs = jobs.filter(status=status)
    if model:
        jobs = jobs.filter(Q(model=model) | Q(base__name=model) | Q(fine_tuned_model=model))
    if metadata is None:
        return jobs.filter(metadata={})
    return jobs.filter(metadata__contains=metadata) if metadata else jobs


def get_job(*, project: Project, wire_id: str) -> FineTuningJob:
    """One job of the project, or ``not_found``."""
    job_id = from_wire(FineTuningJob.ID_PREFIX, wire_id)
    job = project_jobs(project=project).filter(id=job_id).first() if job_id else None
    if job is None:
        raise not_found("fine-tuning job", wire_id)
    return job


def get_leased_job(*, lease: Lease, lock: bool = False) -> FineTuningJob:
    """The job that this lease carries on; ``lease_lost`` when another does by now."""
    jobs = FineTuningJob.objects.select_related(
        "project", "api_key", "base", "price", "training_file", "validation_file", "organization"
    )
    if lock:
        jobs = jobs.select_for_update(of=("self",))
    job = jobs.filter(lease_id=lease.id).first()
    if job is None:
        raise HoneError("lease_lost", "The job has gone on to other work")
    return job


def find_checkpoint(*, project_id: UUID, wire_id: str) -> Checkpoint | None:
    """The checkpoint of that id, of a job of the project, that has been published. Call inside the scope."""
    match = re.fullmatch(rf"{Checkpoint.ID_PREFIX}([0-9a-f]{{32}})([0-7][0-9a-f]{{7}})", wire_id, re.ASCII)
    if match is None:
        return None
    checkpoints = Checkpoint.objects.filter(job_id=UUID(hex=match[1]), job__project_id=project_id)
    return checkpoints.filter(step=int(match[2], 16)).exclude(model="").first()


def list_events(*, job: FineTuningJob, page: PageRequest, after: int | None) -> Page[JobEvent]:
    """Events of a job, newest first unless told otherwise."""
    return _numbered(JobEvent.objects.filter(job_id=job.id), "number", page, after)


def list_checkpoints(*, job: FineTuningJob, page: PageRequest, after: int | None) -> Page[Checkpoint]:
    """Checkpoints of a job that can be called, the latest first unless told otherwise."""
    return _numbered(Checkpoint.objects.filter(job_id=job.id).exclude(model=""), "step", page, after)


def metrics_of(*, job_id: UUID, steps: list[int]) -> dict[int, MetricPoint]:
    """What was measured at these steps."""
    return {point.step: point for point in MetricPoint.objects.filter(job_id=job_id, step__in=steps)}


def numbered_id(prefix: str, job_id: UUID, number: int) -> str:
    """The id of an event or a checkpoint on the wire."""
    return f"{to_wire(prefix, job_id)}{number:08x}"


def number_of(prefix: str, job: FineTuningJob, wire_id: str) -> int | None:
    """The number of an event or a checkpoint of this job, or None when the id is none of them."""
    start = to_wire(prefix, job.id)
    digits = wire_id.removeprefix(start)
    return int(digits, 16) if wire_id.startswith(start) and re.fullmatch("[0-7][0-9a-f]{7}", digits) else None


def number_after(prefix: str, job: FineTuningJob, wire_id: str | None) -> int | None:
    """Where a page of a job's own begins: behind this id, which must be one of the list; None is at the start."""
    if not wire_id:
        return None
    number = number_of(prefix, job, wire_id)
    if number is None:
        raise HoneError("invalid_value", f"'after' is not an id of this list: {wire_id}", param="after")
    return number


def referenced_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that an artefact of the organisation's jobs names."""
    with tenant_scope(organization_id):
        return set(Artifact.objects.filter(storage_key__in=keys).values_list("storage_key", flat=True))


def _numbered(rows: QuerySet[Any], field: str, page: PageRequest, after: int | None) -> Page[Any]:
    if after is not None:
        rows = rows.filter(**{f"{field}__{'lt' if page.descending else 'gt'}": after})
    items: list[Model] = list(rows.order_by(f"-{field}" if page.descending else field)[: page.limit + 1])
    return Page(items=items[: page.limit], has_more=len(items) > page.limit)
