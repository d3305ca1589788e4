"""How much a project may store. Of several that want the last room its row's lock lets one have it."""

from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, Sum
from django.db.models.functions import Greatest

from common.errors import HoneError
from files.models import FileUse, StoredFile, Upload
from files.selectors import live_files
from tenants.models import Project

SUGGESTIONS = 3


@dataclass(frozen=True)
class _Held:
    """What a project stores: its files, produced ones included, and uploads that have not ended."""

    files: int
    file_bytes: int
    uploads: int
    upload_bytes: int
    """Each upload counts as announced, or by its parts where they hold more."""


def reserve_room(*, project: Project, files: int, size: int) -> None:
    """Make sure that the project may store so many files and bytes more; ``storage_quota_exceeded`` otherwise.

    Call it inside the scope, in the transaction that stores them. Files that jobs produce are not asked for: nobody
    loses results that have been paid for.
    """
    lock_storage(project=project)
    held = _held_by(project)
    if files and held.files + held.uploads + files > settings.PROJECT_MAX_FILES:
        raise _exceeded(
            project,
            held,
            f"A project may hold {settings.PROJECT_MAX_FILES} files; this one holds {held.files}, and {held.uploads} "
            "uploads are under way",
            order=("id",),
        )
    if held.file_bytes + held.upload_bytes + size > settings.PROJECT_MAX_STORED_BYTES:
        raise _exceeded(
            project,
            held,
            f"A project may store {settings.PROJECT_MAX_STORED_BYTES} bytes; this one stores {held.file_bytes}, "
            f"uploads have announced {held.upload_bytes}, and {size} more are needed",
            order=("-bytes", "id"),
        )


def lock_storage(*, project: Project) -> None:
    """Until the transaction ends nobody else's files or uploads are added to what the project stores."""
    Project.objects.select_for_update(no_key=True).get(id=project.id)


def _held_by(project: Project) -> _Held:
    # What has expired counts until it has been deleted: its bytes are there, and an upload that is being completed
    # may still make its file.
    files = StoredFile.objects.filter(project_id=project.id, deleted_at=None).aggregate(
        count=Count("id"), size=Sum("bytes", default=0)
    )
    uploads = Upload.objects.filter(project_id=project.id, status=Upload.Status.PENDING).aggregate(
        count=Count("id"), size=Sum(Greatest("bytes", "stored_bytes"), default=0)
    )
    return _Held(files["count"], files["size"], uploads["count"], uploads["size"])


def _exceeded(project: Project, held: _Held, state: str, *, order: tuple[str, ...]) -> HoneError:
    """The refusal, with the files that it helps most to delete."""
    is_held = Exists(FileUse.objects.filter(file_id=OuterRef("id")))
    candidates = live_files(project=project).filter(~is_held).order_by(*order)[:SUGGESTIONS]
    named = ", ".join(f"{file.wire_id} ({file.bytes} bytes)" for file in candidates)
    cures = [f"Delete files that you no longer need, such as {named}" if named else "No file can be deleted now"]
    if held.uploads:
        cures.append("complete or cancel uploads")
    return HoneError("storage_quota_exceeded", f"{state}. {'; '.join(cures)}")
