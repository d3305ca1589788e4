"""Writes about files."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models import Exists, ForeignObjectRel, OuterRef
from django.db.models.functions import Now
from django.utils import timezone

from common.errors import HoneError, not_found
from common.ids import from_wire
from common.storage import IncomingBlob, delete_abandoned_incoming, delete_blob, discard_blobs
from files.duplicates import claim_blob, find_blob, is_in_use
from files.models import FileUse, StoredFile
from files.quota import reserve_room
from files.reports import delete_reports, start_report
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

UPLOAD_PURPOSES = frozenset(
    {
        StoredFile.Purpose.BATCH,
        StoredFile.Purpose.FINE_TUNE,
        StoredFile.Purpose.EVALS,
        StoredFile.Purpose.USER_DATA,
        StoredFile.Purpose.ASSISTANTS,
        StoredFile.Purpose.VISION,
    }
)
BATCH_LIFETIME = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """What a caller says of a file whose bytes have been received."""

    filename: str
    purpose: StoredFile.Purpose
    lifetime: timedelta | None = None


def upload_limit(purpose: str) -> int:
    """Most bytes a file of this purpose may have."""
    limit: int = settings.BATCH_INPUT_MAX_BYTES if purpose == StoredFile.Purpose.BATCH else settings.FILE_MAX_BYTES
    return limit


def check_size(*, purpose: str, size: int, param: str) -> None:
    """``empty_file`` or ``file_too_large`` for what no file of this purpose may be; ``size`` in bytes."""
    limit = upload_limit(purpose)
    if size > limit:
        raise HoneError(
            "file_too_large", f"A file for '{purpose}' may hold at most {limit} bytes, not {size}", param=param
        )
    if size == 0:
        raise HoneError("empty_file", "The file is empty", param=param)


def create_file(
    *,
    project: Project,
    blob: IncomingBlob,
    new: NewFile,
    actor: str,
    created_by: UUID | None,
    request: CreateRequest | None = None,
) -> StoredFile:
    """Store a file that has been received whole; a repetition of ``request`` gets the file made then.

    ``storage_quota_exceeded`` when the project has no room for it. Bytes that the project has already are not kept
    a second time.
    """
    check_size(purpose=new.purpose, size=blob.size, param="file")
    same = find_blob(project=project, purpose=new.purpose, sha256=blob.sha256, size=blob.size)
    key = blob.keep_new(project.organization_id, "files")  # bytes first: a row never names bytes that are not there
    try:
        with tenant_scope(project.organization_id):
            file = earlier(request, StoredFile) if request else None
            if file is None:
                reserve_room(project=project, files=1, size=blob.size)
                file = add_file(
                    project=project,
                    blob=blob,
                    key=same if same and claim_blob(project=project, key=same) else key,
                    new=new,
                    actor=actor,
                    created_by=created_by,
                )
                if request:
                    remember(request, file)
    except HoneError:
        discard_blobs(key)  # refused, so that certainly nothing refers to it
        raise
    if file.storage_key != key:
        discard_blobs(key)
    return file


def add_file(
    *, project: Project, blob: IncomingBlob, key: str, new: NewFile, actor: str, created_by: UUID | None
) -> StoredFile:
    """The row of bytes that stand at ``key`` already. Batch files live 30 days unless told otherwise."""
    lifetime = new.lifetime
    if lifetime is None and new.purpose in (StoredFile.Purpose.BATCH, StoredFile.Purpose.BATCH_OUTPUT):
        lifetime = BATCH_LIFETIME
    now = timezone.now()
    file = StoredFile.objects.create(
        organization_id=project.organization_id,
        project_id=project.id,
        created_by_id=created_by,
        filename=new.filename,
        purpose=new.purpose,
        bytes=blob.size,
        sha256=blob.sha256,
        storage_key=key,
        created_at=now,
        expires_at=now + lifetime if lifetime else None,
    )
    record(
        actor=actor,
        action="file.created",
        subject=file.wire_id,
        organization_id=project.organization_id,
        project_id=project.id,
        details={"purpose": new.purpose, "bytes": blob.size, "sha256": blob.sha256},
    )
    start_report(file=file)
    return file


def delete_file(*, project: Project, wire_id: str, actor: str) -> StoredFile:
    """Delete a file that no job needs. The row goes out of sight at once, the bytes right after."""
    with tenant_scope(project.organization_id):
        file = lock_file(project=project, wire_id=wire_id)
        holder = FileUse.objects.filter(file_id=file.id).values_list("holder", flat=True).first()
        if holder is not None:
            raise HoneError("file_in_use", f"{wire_id} is used by {holder}; cancel it or wait for its end", param="id")
        file.deleted_at = timezone.now()
        file.save(update_fields=["deleted_at"])
        record(
            actor=actor,
            action="file.deleted",
            subject=file.wire_id,
            organization_id=project.organization_id,
            project_id=project.id,
        )
        rejects = delete_reports(file=file)
    discard_blobs(*rejects)
    _delete_bytes(file)
    return file


def lock_file(*, project: Project, wire_id: str, param: str = "id") -> StoredFile:
    """The live file of this id, locked until the scope ends; ``not_found`` otherwise."""
    file_id = from_wire(StoredFile.ID_PREFIX, wire_id)
    live = StoredFile.objects.select_for_update().filter(project_id=project.id, deleted_at=None)
    file = live.filter(id=file_id).first() if file_id else None
    if file is None or is_expired(file):
        raise not_found("file", wire_id, param=param)
    return file


def is_expired(file: StoredFile) -> bool:
    """Whether its time is over and no job holds it; such a file is as good as deleted."""
    if file.expires_at is None or file.expires_at > timezone.now():
        return False
    return not FileUse.objects.filter(file_id=file.id).exists()


def hold_file(*, file: StoredFile, holder: str) -> None:
    """Keep a file from being deleted while ``holder`` (a wire id) needs it. Call with the file locked."""
    FileUse.objects.get_or_create(organization_id=file.organization_id, file=file, holder=holder)


def release_file(*, file_id: UUID, holder: str) -> None:
    """``holder`` no longer needs the file."""
    FileUse.objects.filter(file_id=file_id, holder=holder).delete()


def delete_expired_files(*, limit: int = 500) -> int:
    """Delete files whose time is over (returns how many), and bytes that interrupted deletions and uploads left."""
    # Expiry crosses tenants; each file is then deleted inside its own tenant's scope.
    held = Exists(FileUse.all_tenants.filter(file_id=OuterRef("id")))
    due = list(
        StoredFile.all_tenants.filter(~held, deleted_at=None, expires_at__lte=timezone.now())
        .order_by("expires_at")
        .values_list("organization_id", "id")[:limit]
    )
    for organization_id, file_id in due:
        with tenant_scope(organization_id):
            file = StoredFile.objects.select_for_update().filter(id=file_id, deleted_at=None).first()
            if file is None or not is_expired(file):
                continue
            file.deleted_at = timezone.now()
            file.save(update_fields=["deleted_at"])
            record(actor=SYSTEM_ACTOR, action="file.expired", subject=file.wire_id, organization_id=organization_id)
            rejects = delete_reports(file=file)
        discard_blobs(*rejects)
    leftovers = StoredFile.all_tenants.filter(deleted_at__isnull=False).exclude(storage_key="")[:limit]
    for file in leftovers:
        _delete_bytes(file)
    delete_abandoned_incoming()
    return len(due)


def forget_deleted_files(*, limit: int = 10_000) -> int:
    """Delete the rows of files that were deleted ``DELETED_FILE_RETENTION_DAYS`` ago; how many.

    Whatever refers to files keeps their rows: the batch of a deleted input still shows its id.
    """
    if not settings.DELETED_FILE_RETENTION_DAYS:
        return 0
    cutoff = Now() - timedelta(days=settings.DELETED_FILE_RETENTION_DAYS)
    # Found across tenants; each is then deleted in its own tenant's scope.
    gone = StoredFile.all_tenants.filter(deleted_at__lt=cutoff, storage_key="")
    for relation in StoredFile._meta.get_fields(include_hidden=True):
        if isinstance(relation, ForeignObjectRel):
            referring = relation.related_model._base_manager.filter(**{relation.field.name: OuterRef("pk")})
            gone = gone.filter(~Exists(referring))
    by_organization: dict[UUID, list[UUID]] = {}
    for organization_id, file_id in gone.order_by("deleted_at").values_list("organization_id", "id")[:limit]:
        by_organization.setdefault(organization_id, []).append(file_id)
    for organization_id, file_ids in by_organization.items():
        with tenant_scope(organization_id):
            StoredFile.objects.filter(id__in=file_ids).delete()
    return sum(map(len, by_organization.values()))


def _delete_bytes(file: StoredFile) -> None:
    """After the commit: when this fails the row still names the bytes, and the next round tries again."""
    try:
        if not is_in_use(organization_id=file.organization_id, key=file.storage_key):
            delete_blob(file.storage_key)
    except HoneError as error:
        logger.warning("blob not deleted", file=file.wire_id, error=error.message)
        return
    with tenant_scope(file.organization_id):
        StoredFile.objects.filter(id=file.id).update(storage_key="")
