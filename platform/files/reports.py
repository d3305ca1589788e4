"""Reports on the rows of files: one for each set of options, written in the background, kept with the file."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from django.db.models.functions import Now

from common.errors import HoneError
from common.storage import IncomingBlob
from files.inspection import Inspector, Notes, RowProblem, inspector_of
from files.lines import FileError
from files.models import FileReport, StoredFile
from files.selectors import get_file
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

MAX_REPORTS = 20
"""Of one file; whoever asks for more replaces the oldest that is done."""
PROGRESS_BYTES = 2 * 1024 * 1024
BLOB_KIND = "reports"


@dataclass(frozen=True)
class WrittenReport:
    """What :func:`write_report` has found; :func:`finish_report` makes it known."""

    summary: dict[str, Any]
    rejects_key: str
    rejects_bytes: int


def get_report(*, project: Project, key: ApiKey, file_id: str, options: Mapping[str, str]) -> FileReport:
    """The report by these options; one that nobody has asked for before is queued."""
    with tenant_scope(project.organization_id):
        file = get_file(project=project, wire_id=file_id)
        report = FileReport.objects.filter(file_id=file.id, options_digest=_digest(options)).first()
        if report is not None:
            return report
        inspector = inspector_of(file.purpose)
        if inspector is None:
            raise HoneError("invalid_purpose", f"Files with the purpose '{file.purpose}' have no report", param="id")
        inspector.check_options(project=project, key=key, options=options)
        _make_room(file)
        return _request(inspector, file, key.id, options)


def start_report(*, file: StoredFile) -> None:
    """Look at a new file, if its purpose wants that. Call it inside the scope that makes the file."""
    inspector = inspector_of(file.purpose)
    if inspector is not None and inspector.starts_by_itself:
        _request(inspector, file, file.created_by_id, {})


def write_report(*, report: FileReport, beat: Callable[[], None]) -> WrittenReport:
    """Look at every row, outside of transactions; ``beat`` is called for each. May run twice."""
    inspector = inspector_of(report.file.purpose)
    if inspector is None:
        raise HoneError("invalid_purpose", f"Files with the purpose '{report.file.purpose}' have no report")
    reported = 0

    def progress(bytes_read: int) -> None:
        nonlocal reported
        beat()
        if bytes_read - reported >= PROGRESS_BYTES:
            reported = bytes_read
            with tenant_scope(report.organization_id):
                FileReport.objects.filter(id=report.id).update(bytes_read=bytes_read, state=FileReport.State.RUNNING)

    with IncomingBlob() as rejects:
        notes = Notes(rejects)
        found: dict[str, Any] = {}
        try:
            found = inspector.inspect(report, notes, progress)
        except FileError as error:
            notes.whole_file(RowProblem(line=None, pointer="", code=error.code, message=error.message, fix=error.fix))
        key = rejects.keep_new(report.organization_id, BLOB_KIND) if rejects.size else ""
        return WrittenReport({**notes.describe(), **found}, key, rejects.size)


def finish_report(*, report: FileReport, written: WrittenReport) -> bool:
    """Make a report known; False when its file was deleted meanwhile. Call it inside the scope."""
    done = FileReport.objects.filter(id=report.id).update(
        state=FileReport.State.COMPLETED,
        summary=written.summary,
        rejects_key=written.rejects_key,
        rejects_bytes=written.rejects_bytes,
        finished_at=Now(),
    )
    return bool(done)


def fail_report(*, lease_id: UUID, code: str, message: str) -> None:
    """The report could not be made, in several tries. Call it inside the scope."""
    FileReport.objects.filter(lease_id=lease_id).update(
        state=FileReport.State.FAILED, failure={"code": code, "message": message}, finished_at=Now()
    )


def delete_reports(*, file: StoredFile) -> list[str]:
    """Forget what was found out about a file; the keys of blobs that nobody needs after the commit."""
    reports = FileReport.objects.filter(file_id=file.id)
    keys = list(reports.exclude(rejects_key="").values_list("rejects_key", flat=True))
    reports.delete()
    return keys


def referenced_report_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a report of the organisation names."""
    with tenant_scope(organization_id):
        return set(FileReport.objects.filter(rejects_key__in=keys).values_list("rejects_key", flat=True))


def _request(inspector: Inspector, file: StoredFile, key_id: UUID | None, options: Mapping[str, str]) -> FileReport:
    report, is_new = FileReport.objects.get_or_create(
        organization_id=file.organization_id,
        file=file,
        options_digest=_digest(options),
        defaults={"options": dict(options), "requested_by_id": key_id},
    )
    if is_new:
        inspector.queue(report)
        report.save(update_fields=["lease_id"])
    return report


def _make_room(file: StoredFile) -> None:
    done = (FileReport.State.COMPLETED, FileReport.State.FAILED)
    reports = FileReport.objects.filter(file_id=file.id)
    if reports.count() < MAX_REPORTS:
        return
    oldest = reports.filter(state__in=done).exclude(options={}).order_by("created_at").first()
    if oldest is None:
        raise HoneError(
            "conflict", f"{MAX_REPORTS} reports on this file are being written; wait for one of them", param="id"
        )
    oldest.delete()  # its blob, without a row now, goes with the orphans


def _digest(options: Mapping[str, str]) -> str:
    return hashlib.sha256(orjson.dumps(options, option=orjson.OPT_SORT_KEYS)).hexdigest()
