"""Bytes that a project has already: its files say so, and share one blob.

The live rows that name a blob are its reference count. Two rules keep the bytes for whoever still needs them:

- a new row takes over a blob only while it holds the lock of a live row that names it (:func:`claim_blob`). So the
  deletion of that row waits for the new one, or has been committed before and the blob is not taken over;
- a blob goes after the deletion of a row has been committed, and only when no live row names it then
  (:func:`is_in_use`). So the last of several rows to go sees no other, and takes the bytes with it.
"""

from collections.abc import Collection
from uuid import UUID

from common.storage import has_blob
from files.models import StoredFile
from files.selectors import live_files
from tenants.models import Project
from tenants.scope import tenant_scope


def originals_of(*, project: Project, files: Collection[StoredFile]) -> dict[UUID, UUID]:
    """Of those files whose bytes the project had before, under the same purpose: the oldest live file with them."""
    copies = live_files(project=project).filter(sha256__in={file.sha256 for file in files})
    oldest = copies.order_by("sha256", "purpose", "id").distinct("sha256", "purpose")
    originals = {(sha256, purpose): id_ for sha256, purpose, id_ in oldest.values_list("sha256", "purpose", "id")}
    found = ((file.id, originals.get((file.sha256, file.purpose))) for file in files)
    return {file_id: original for file_id, original in found if original is not None and original < file_id}


def find_blob(*, project: Project, purpose: str, sha256: str, size: int) -> str | None:
    """The key of a blob with these bytes that a live file of the project names and the storage really has."""
    with tenant_scope(project.organization_id):
        copies = live_files(project=project, purpose=purpose).filter(sha256=sha256)
        key = copies.order_by("id").values_list("storage_key", flat=True).first()
    return key if key is not None and has_blob(key, size) else None


def claim_blob(*, project: Project, key: str) -> bool:
    """Whether a new row may name this blob, too. Call it inside the scope, in the transaction that makes that row."""
    files = StoredFile.objects.select_for_update(no_key=True).filter(
        project_id=project.id, storage_key=key, deleted_at=None
    )
    return files.order_by("id").first() is not None


def is_in_use(*, organization_id: UUID, key: str) -> bool:
    """Whether a live file names this blob. Ask after the commit that has deleted another."""
    with tenant_scope(organization_id):
        return StoredFile.objects.filter(storage_key=key, deleted_at=None).exists()
