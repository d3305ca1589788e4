"""``/v1/files/{id}/report``."""

from typing import Any, ClassVar

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import HoneError
from common.storage import BlobRange
from files.inspection import inspector_of
from files.models import FileReport
from files.reports import get_report
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


def render_report(report: FileReport) -> dict[str, Any]:
    """The wire object. Call it inside the scope."""
    inspector = inspector_of(report.file.purpose)
    is_done = report.state == FileReport.State.COMPLETED
    return {
        "object": "file.report",
        "file_id": report.file.wire_id,
        "status": report.state,
        "progress": 1.0 if is_done else round(min(0.99, report.bytes_read / max(1, report.file.bytes)), 2),
        "created_at": int(report.created_at.timestamp()),
        "finished_at": int(report.finished_at.timestamp()) if report.finished_at else None,
        "error": report.failure,
        "rejects_bytes": report.rejects_bytes if is_done else None,
        **(report.summary or {}),
        **(inspector.describe(report) if inspector is not None and is_done else {}),
    }


class FileReportView(TenantAPIView):
    """What the rows of a file are like."""

    operations: ClassVar = {"GET": "files.report"}

    def get(self, request: Request, file_id: str) -> Response:
        """The report as far as it has come; asking for the first time starts it."""
        report = self.report(request, file_id)
        with tenant_scope(self.principal.organization_id):
            return Response(render_report(report))

    def report(self, request: Request, file_id: str) -> FileReport:
        """By the options of the query."""
        return get_report(
            project=self.project,
            key=self.principal.key,
            file_id=file_id,
            options=request.query_params.dict(),
        )


class FileRejectsView(FileReportView):
    """The bad rows of a file."""

    operations: ClassVar = {"GET": "files.report_rejects"}

    def get(self, request: Request, file_id: str) -> HttpResponseBase:  # type: ignore[override]  # bytes, no object
        """NDJSON, in the file's order: ``line``, ``problems``, and the row itself."""
        report = self.report(request, file_id)
        if report.state != FileReport.State.COMPLETED:
            raise HoneError("conflict", f"The report is {report.state}; ask again when it is completed", param="id")
        headers = {
            "Content-Length": str(report.rejects_bytes),
            "Content-Disposition": f'attachment; filename="{file_id}-rejects.jsonl"',
            "X-Content-Type-Options": "nosniff",
        }
        if not report.rejects_key:
            return HttpResponse(b"", content_type="application/x-ndjson", headers=headers)
        rejects = BlobRange(report.rejects_key, 0, report.rejects_bytes)
        return StreamingHttpResponse(rejects, content_type="application/x-ndjson", headers=headers)
