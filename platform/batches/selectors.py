"""Reads about batches."""

from django.db.models import QuerySet

from batches.models import Batch
from common.errors import HoneError, not_found
from common.ids import from_wire
from fleet.models import Lease
from tenants.models import Project


def project_batches(*, project: Project) -> QuerySet[Batch]:
    """Batches of a project."""
    return Batch.objects.filter(project_id=project.id)


def get_controlled_batch(*, lease: Lease, lock: bool = False) -> Batch:
    """The batch whose validation, assembly or clearing this lease is; ``lease_lost`` when it is that no more."""
    batches = Batch.objects.select_related("project", "input_file", "api_key")
    if lock:
        batches = batches.select_for_update(of=("self",))
    batch = batches.filter(control_lease_id=lease.id).first()
    if batch is None:
        raise HoneError("lease_lost", "The batch has other work queued by now")
    return batch


def get_batch(*, project: Project, wire_id: str) -> Batch:
    """One batch of the project, or ``not_found``."""
    batch_id = from_wire(Batch.ID_PREFIX, wire_id)
    batch = project_batches(project=project).filter(id=batch_id).first() if batch_id else None
    if batch is None:
        raise not_found("batch", wire_id)
    return batch
