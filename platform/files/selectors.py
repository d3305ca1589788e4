"""Reads about files and uploads."""

from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from common.errors import HoneError, not_found
from common.ids import from_wire
from files.models import FileUse, StoredFile, Upload, UploadPart
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


def get_upload(*, project: Project, wire_id: str, lock: bool = False) -> Upload:
    """One upload of the project, whatever has become of it, or ``not_found``; with ``lock`` until the scope ends."""
    upload_id = from_wire(Upload.ID_PREFIX, wire_id)
    uploads = Upload.objects.filter(project_id=project.id)
    if lock:
        uploads = uploads.select_for_update(no_key=True)
    upload = uploads.filter(id=upload_id).first() if upload_id else None
    if upload is None:
        raise not_found("upload", wire_id)
    return upload


def require_pending(upload: Upload) -> None:
    """Raise ``conflict`` when the upload has ended, or its time is over and nobody has said so yet."""
    status = upload.status
    if status == Upload.Status.PENDING:
        if Upload.objects.filter(id=upload.id, expires_at__gt=Now()).exists():
            return
        status = Upload.Status.EXPIRED
    raise HoneError("conflict", f"The upload is {status}", param="id")


def referenced_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a file of the organisation names, a deleted one included."""
    with tenant_scope(organization_id):
        files = StoredFile.objects.filter(storage_key__in=keys).exclude(storage_key="")
        return set(files.values_list("storage_key", flat=True))


def referenced_part_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a part of an upload of the organisation names."""
    with tenant_scope(organization_id):
        return set(UploadPart.objects.filter(storage_key__in=keys).values_list("storage_key", flat=True))
