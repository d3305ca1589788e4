"""Reads about batches."""

from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from batches.models import Batch, Segment, Shard
from catalog.models import FineTunedModel
from common.errors import HoneError, not_found
from common.ids import from_wire
from fleet.models import Lease
from tenants.models import Project
from tenants.scope import tenant_scope


def project_batches(*, project: Project) -> QuerySet[Batch]:
    """Batches of a project."""
    return Batch.objects.filter(project_id=project.id)


def filter_batches(
    batches: QuerySet[Batch], *, status: str | None, model: str | None, metadata: dict[str, str]
) -> QuerySet[Batch]:
    """Those with this state, those that ask this model for anything, those with all these pairs of metadata."""
    if status:
        batches = batches.filter(status=status)
    if model:
        shards = Shard.objects.filter(batch_id=OuterRef("id"), model=model)
        batches = batches.filter(Q(model=model) | Exists(shards))
    return batches.filter(metadata__contains=metadata) if metadata else batches


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


def lock_batch(*, project: Project, wire_id: str) -> Batch:
    """One batch of the project, locked until the scope ends, or ``not_found``."""
    batch_id = from_wire(Batch.ID_PREFIX, wire_id)
    locked = project_batches(project=project).select_for_update(of=("self",))
    batch = locked.filter(id=batch_id).first() if batch_id else None
    if batch is None:
        raise not_found("batch", wire_id)
    return batch


def find_running_batch(model: FineTunedModel) -> str | None:
    """A batch with rows that this model is still to answer. Call inside the scope."""
    shard = Shard.objects.select_related("batch").filter(adapter_id=model.id, pending__gt=0).order_by("id").first()
    return f"{shard.batch.wire_id} runs on it; cancel it or wait for its end" if shard else None


def referenced_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a segment of the organisation names."""
    with tenant_scope(organization_id):
        segments = Segment.objects.filter(storage_key__in=keys).exclude(storage_key="")
        return set(segments.values_list("storage_key", flat=True))
