"""Reads about files."""

from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from common.errors import not_found
from common.ids import from_wire
from files.models import FileUse, StoredFile
from tenants.models import Project
from tenants.scope import tenant_scope


def live_files(*, project: Project, purpose: str | None = None) -> QuerySet[StoredFile]:
    """Files of a project that are neither deleted nor expired (a file that a job holds does not expire)."""
    held = Exists(FileUse.objects.filter(file_id=OuterRef("id")))
    files = StoredFile.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=timezone.now()) | Q(held), project_id=project.id, deleted_at=None
    )
    return files.filter(purpose=purpose) if purpose else files


def get_file(*, project: Project, wire_id: str, param: str = "id") -> StoredFile:
    """One file of the project, or ``not_found``."""
    file_id = from_wire(StoredFile.ID_PREFIX, wire_id)
    file = live_files(project=project).filter(id=file_id).first() if file_id else None
    if file is None:
        raise not_found("file", wire_id, param=param)
    return file


def referenced_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a file of the organisation names, a deleted one included."""
    with tenant_scope(organization_id):
        files = StoredFile.objects.filter(storage_key__in=keys).exclude(storage_key="")
        return set(files.values_list("storage_key", flat=True))
