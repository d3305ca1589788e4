"""Reads about batches."""

from django.db.models import QuerySet

from batches.models import Batch
from common.errors import not_found
from common.ids import from_wire
from tenants.models import Project


def project_batches(*, project: Project) -> QuerySet[Batch]:
    """Batches of a project."""
    return Batch.objects.filter(project_id=project.id)


def get_batch(*, project: Project, wire_id: str) -> Batch:
    """One batch of the project, or ``not_found``."""
    batch_id = from_wire(Batch.ID_PREFIX, wire_id)
    batch = project_batches(project=project).filter(id=batch_id).first() if batch_id else None
    if batch is None:
        raise not_found("batch", wire_id)
    return batch
