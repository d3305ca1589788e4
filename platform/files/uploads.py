"""Files that arrive in parts: any number at once, in any order, each as often as the network makes it.

Bytes travel and are joined outside of every transaction; a short one under the upload's lock then decides. Locks are
taken in the order upload, project, file. The parts of an upload that has ended are deleted by :func:`close_uploads`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import md5, sha256
from typing import Any
from uuid import UUID

import structlog
from django.db.models.functions import Now

from common.errors import HoneError, not_found
from common.ids import from_wire
from common.storage import CHUNK_BYTES, IncomingBlob, delete_blob, discard_blobs, open_blob, storage_errors
from files.duplicates import claim_blob, find_blob
from files.models import StoredFile, Upload, UploadPart
from files.quota import lock_storage, reserve_room
from files.selectors import get_upload, require_pending
from files.services import NewFile, add_file, check_size
from tenants.idempotency import KEPT_FOR, CreateRequest, earlier, remember
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

LIFETIME = timedelta(hours=1)
MAX_PARTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a caller wants an upload completed with."""

    part_ids: Sequence[str]
    """In the order of the file; a part may stand in it more than once."""
    md5: str | None
    """What the MD5 of the file must be, in hexadecimal."""
    actor: str
    created_by: UUID | None

    @property
    def order(self) -> str:
        """By which the same parts in the same order are known again."""
        return sha256("\n".join(self.part_ids).encode()).hexdigest()


def create_upload(*, project: Project, new: NewFile, size: int, actor: str, request: CreateRequest) -> Upload:
    """Announce a file of ``size`` bytes; a repetition of ``request`` gets the upload made then.

    Its room is reserved until it ends: ``storage_quota_exceeded`` comes now or never, unless parts are sent that the
    file is not made of.
    """
    check_size(purpose=new.purpose, size=size, param="bytes")
    with tenant_scope(project.organization_id):
        made = earlier(request, Upload)
        if made is not None:
            return made
        reserve_room(project=project, files=1, size=size)
        upload = Upload.objects.create(
            organization_id=project.organization_id,
            project_id=project.id,
            filename=new.filename,
            purpose=new.purpose,
            bytes=size,
            lifetime_seconds=None if new.lifetime is None else int(new.lifetime.total_seconds()),
            created_at=request.received_at,
            expires_at=request.received_at + LIFETIME,
        )
        _record(upload, "created", actor, {"purpose": new.purpose, "bytes": size})
        remember(request, upload)
    return upload


def add_part(*, project: Project, wire_id: str, blob: IncomingBlob, actor: str, request: CreateRequest) -> UploadPart:
    """Keep bytes that have been received whole. The same bytes again, whenever and by whom, are the same part.

    ``conflict`` when the upload has ended.
    """
    if blob.size == 0:
        raise HoneError("empty_file", "The part is empty", param="data")
    key = blob.keep_new(project.organization_id, "parts")
    try:
        with tenant_scope(project.organization_id):
            part = earlier(request, UploadPart)
            if part is None:
                upload = get_upload(project=project, wire_id=wire_id, lock=True)
                require_pending(upload)
                part = UploadPart.objects.filter(upload_id=upload.id, sha256=blob.sha256).first()
                if part is None:
                    part = _add_part(project, upload, blob, key, actor)
                remember(request, part)
    except HoneError:
        discard_blobs(key)  # refused, so that certainly nothing refers to it
        raise
    if part.storage_key != key:
        discard_blobs(key)
    return part


def complete_upload(*, project: Project, wire_id: str, wanted: Completion, request: CreateRequest) -> Upload:
    """Join the parts into the file. Repeated with the same parts it gets the same upload back.

    ``invalid_value`` when the parts do not hold as many bytes as were announced, ``checksum_mismatch`` when they are
    not those of the MD5: both leave the upload as it was. ``conflict`` when it has been cancelled, has expired, or was
    completed with other parts.
    """
    with tenant_scope(project.organization_id):
        made = earlier(request, Upload)
        if made is not None:
            return made
        upload = get_upload(project=project, wire_id=wire_id)
        if upload.status == Upload.Status.COMPLETED:
            return _same_completion(upload, wanted)
        require_pending(upload)
        parts = _named_parts(upload, wanted.part_ids)
    with IncomingBlob() as blob:
        try:
            found_md5 = _join(parts, blob, upload.bytes)
        except HoneError:
            with tenant_scope(project.organization_id):
                upload = get_upload(project=project, wire_id=wire_id)
                if upload.status == Upload.Status.PENDING:
                    raise
                return _same_completion(upload, wanted)  # it has ended meanwhile, and its parts are going
        _check_md5(found_md5, wanted.md5)
        return _conclude(project, upload, blob, found_md5=found_md5, wanted=wanted, request=request)


def cancel_upload(*, project: Project, wire_id: str, actor: str) -> Upload:
    """End an upload without a file; again is harmless. ``conflict`` when it has been completed or has expired."""
    with tenant_scope(project.organization_id):
        upload = get_upload(project=project, wire_id=wire_id, lock=True)
        if upload.status != Upload.Status.CANCELLED:
            require_pending(upload)
            _end(upload, Upload.Status.CANCELLED, actor)
    return upload


def close_uploads(*, limit: int = 10_000) -> None:
    """End uploads whose time is over, delete the parts of all that have ended, and forget those of yesterday."""
    # Found across tenants; each is then changed in its own tenant's scope.
    uploads = Upload.all_tenants.order_by("expires_at")
    due = uploads.filter(status=Upload.Status.PENDING, expires_at__lte=Now())
    for organization_id, upload_id in list(due.values_list("organization_id", "id")[:limit]):
        with tenant_scope(organization_id):
            locked = Upload.objects.select_for_update(no_key=True).filter(status=Upload.Status.PENDING)
            upload = locked.filter(id=upload_id).first()
            if upload is not None:  # neither completed nor cancelled meanwhile
                _end(upload, Upload.Status.EXPIRED, SYSTEM_ACTOR)
    parts = UploadPart.all_tenants.exclude(upload__status=Upload.Status.PENDING).order_by("id")
    for part in list(parts[:limit]):
        _delete_part(part)
    # As long as a repeated request may still ask for it.
    old = uploads.exclude(status=Upload.Status.PENDING).filter(expires_at__lte=Now() - KEPT_FOR)
    for organization_id, upload_id in list(old.values_list("organization_id", "id")[:limit]):
        with tenant_scope(organization_id):
            # One with parts waits until their bytes could be deleted.
            if not UploadPart.objects.filter(upload_id=upload_id).exists():
                Upload.objects.filter(id=upload_id).delete()


def _add_part(project: Project, upload: Upload, blob: IncomingBlob, key: str, actor: str) -> UploadPart:
    """The row of bytes that stand at ``key`` already. Call with the upload locked."""
    if blob.size > upload.bytes:
        raise HoneError(
            "invalid_value",
            f"The part holds {blob.size} bytes, and {upload.bytes} were announced for the whole upload",
            param="data",
        )
    if UploadPart.objects.filter(upload_id=upload.id).count() >= MAX_PARTS:
        raise HoneError("conflict", f"An upload takes at most {MAX_PARTS} parts; send larger ones", param="id")
    stored = upload.stored_bytes + blob.size
    unannounced = stored - max(upload.bytes, upload.stored_bytes)
    if unannounced > 0:
        reserve_room(project=project, files=0, size=unannounced)
    upload.stored_bytes = stored
    upload.save(update_fields=["stored_bytes"])
    part = UploadPart.objects.create(
        organization_id=upload.organization_id,
        upload_id=upload.id,
        bytes=blob.size,
        sha256=blob.sha256,
        storage_key=key,
    )
    _record(upload, "part_added", actor, {"part": part.wire_id, "bytes": part.bytes, "sha256": part.sha256})
    return part


def _named_parts(upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The parts of these ids, as often as they are named; together they hold what was announced."""
    ids = [from_wire(UploadPart.ID_PREFIX, wire_id) for wire_id in part_ids]
    found = UploadPart.objects.filter(upload_id=upload.id).in_bulk([part_id for part_id in ids if part_id])
    parts = []
    for wire_id, part_id in zip(part_ids, ids, strict=True):
        part = found.get(part_id) if part_id else None
        if part is None:
            raise not_found("part of this upload", wire_id, param="part_ids")
        parts.append(part)
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise HoneError(
            "invalid_value",
            f"The parts hold {total} bytes together, and {upload.bytes} were announced",
            param="part_ids",
        )
    return parts


def _join(parts: Sequence[UploadPart], blob: IncomingBlob, size: int) -> str:
    """Write the parts to ``blob``, a chunk at a time; the MD5 of all, in hexadecimal."""
    digest = md5(usedforsecurity=False)
    for part in parts:
        with storage_errors(), open_blob(part.storage_key) as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                blob.write(chunk)
    if blob.size != size:
        raise HoneError("service_unavailable", "The file store has lost bytes of a part", retry_after=5)
    return digest.hexdigest()


def _conclude(
    project: Project, upload: Upload, blob: IncomingBlob, *, found_md5: str, wanted: Completion, request: CreateRequest
) -> Upload:
    """Whoever comes first makes the file; whoever comes later throws the bytes away."""
    same = find_blob(project=project, purpose=upload.purpose, sha256=blob.sha256, size=blob.size)
    key = blob.keep_new(project.organization_id, "files")  # bytes first: a row never names bytes that are not there
    try:
        with tenant_scope(project.organization_id):
            ended = earlier(request, Upload)
            if ended is None:
                ended = get_upload(project=project, wire_id=upload.wire_id, lock=True)
                if ended.status == Upload.Status.PENDING:
                    lock_storage(project=project)  # what it has reserved becomes a file before anybody counts again
                    kept_at = same if same and claim_blob(project=project, key=same) else key
                    _complete(project, ended, blob, key=kept_at, found_md5=found_md5, wanted=wanted)
                else:
                    _same_completion(ended, wanted)
                remember(request, ended)
            is_kept = ended.file is not None and ended.file.storage_key == key
    except HoneError:
        discard_blobs(key)  # refused, so that certainly nothing refers to it
        raise
    if not is_kept:
        discard_blobs(key)
    return ended


def _complete(
    project: Project, upload: Upload, blob: IncomingBlob, *, key: str, found_md5: str, wanted: Completion
) -> None:
    lifetime = None if upload.lifetime_seconds is None else timedelta(seconds=upload.lifetime_seconds)
    upload.file = add_file(
        project=project,
        blob=blob,
        key=key,
        new=NewFile(filename=upload.filename, purpose=StoredFile.Purpose(upload.purpose), lifetime=lifetime),
        actor=wanted.actor,
        created_by=wanted.created_by,
    )
    upload.part_order, upload.md5 = wanted.order, found_md5
    _end(upload, Upload.Status.COMPLETED, wanted.actor, {"file": upload.file.wire_id})


def _same_completion(upload: Upload, wanted: Completion) -> Upload:
    """An upload that has ended, for whoever wants it completed: as it is, when that was with the same parts."""
    if upload.status != Upload.Status.COMPLETED:
        raise HoneError("conflict", f"The upload is {upload.status}", param="id")
    if upload.part_order != wanted.order:
        raise HoneError("conflict", "The upload was completed with other parts", param="part_ids")
    _check_md5(upload.md5, wanted.md5)
    return upload


def _check_md5(found: str, expected: str | None) -> None:
    if expected is not None and expected.lower() != found:
        raise HoneError("checksum_mismatch", f"The MD5 of the parts in this order is {found}", param="md5")


def _delete_part(part: UploadPart) -> None:
    """Bytes first: when that fails the row still names them, and the next round tries again."""
    try:
        delete_blob(part.storage_key)
    except HoneError as error:
        logger.warning("blob not deleted", part=part.wire_id, error=error.message)
        return
    with tenant_scope(part.organization_id):
        UploadPart.objects.filter(id=part.id).delete()


def _end(upload: Upload, status: Upload.Status, actor: str, details: dict[str, Any] | None = None) -> None:
    upload.status = status
    upload.save()
    _record(upload, status, actor, details)


def _record(upload: Upload, what: str, actor: str, details: dict[str, Any] | None = None) -> None:
    record(
        actor=actor,
        action=f"upload.{what}",
        subject=upload.wire_id,
        organization_id=upload.organization_id,
        details=details,
    )
