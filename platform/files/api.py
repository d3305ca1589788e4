"""``/v1/files``."""

import re
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import HoneError
from common.ids import to_wire
from common.pagination import page_request, paginate
from common.storage import BlobRange, IncomingBlob
from files import contracts
from files.contracts import EXPIRY_SECONDS, MAX_LIST
from files.duplicates import originals_of
from files.models import StoredFile
from files.multipart import Form, receive
from files.selectors import get_file, live_files
from files.services import UPLOAD_PURPOSES, NewFile, create_file, delete_file, upload_limit
from tenants.access import TenantAPIView
from tenants.models import Project
from tenants.scope import tenant_scope


def render_file(file: StoredFile, *, duplicate_of: UUID | None) -> dict[str, Any]:
    """The wire object; ``sha256`` and ``duplicate_of`` are ours."""
    return {
        "id": file.wire_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "sha256": file.sha256,
        "duplicate_of": to_wire(StoredFile.ID_PREFIX, duplicate_of) if duplicate_of else None,
    }


def show_file(file: StoredFile, project: Project) -> dict[str, Any]:
    """The wire object of one file. Call inside the scope."""
    return render_file(file, duplicate_of=originals_of(project=project, files=[file]).get(file.id))


def read_purpose(text: str) -> StoredFile.Purpose:
    """A purpose for which files can be uploaded, or ``invalid_purpose``."""
    if text not in UPLOAD_PURPOSES:
        known = ", ".join(sorted(UPLOAD_PURPOSES))
        raise HoneError("invalid_purpose", f"'purpose' must be one of {known}, not '{text}'", param="purpose")
    return StoredFile.Purpose(text)


def read_filename(text: str, *, param: str) -> str:
    """Of a path the last part, or ``invalid_value``."""
    filename = text.replace("\\", "/").rpartition("/")[2]
    if not filename or len(filename) > 255 or not filename.isprintable():
        raise HoneError("invalid_value", "'filename' must have 1 to 255 printable characters", param=param)
    return filename


class FileListView(TenantAPIView):
    """Upload a file; list the project's files."""

    operations: ClassVar = {"POST": "files.create", "GET": "files.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_FILE, "GET": contracts.LIST_FILES}

    def post(self, request: Request) -> Response:
        """Stream the upload to the storage, then name it."""
        with IncomingBlob(max_bytes=upload_limit("")) as blob:
            form = receive(request, blob)
            file = create_file(
                project=self.project,
                blob=blob,
                new=_new_file(form),
                actor=self.principal.actor,
                created_by=self.principal.key.id,
                request=self.create_request({**form.fields, "filename": form.filename}, digest=blob.sha256),
            )
        with tenant_scope(self.principal.organization_id):
            return Response(show_file(file, self.project))

    def get(self, request: Request) -> Response:
        """One page, newest first unless ``order=asc``."""
        query = request.query_params.dict()
        wanted = page_request(query, prefix=StoredFile.ID_PREFIX, max_limit=MAX_LIST, default_limit=MAX_LIST)
        purpose = query.get("purpose")
        if purpose is not None and purpose not in StoredFile.Purpose.values:
            known = ", ".join(sorted(StoredFile.Purpose.values))
            raise HoneError("invalid_purpose", f"'purpose' must be one of {known}, not '{purpose}'", param="purpose")
        with tenant_scope(self.principal.organization_id):
            page = paginate(live_files(project=self.project, purpose=purpose), wanted)
            originals = originals_of(project=self.project, files=page.items)
        return Response(page.render(lambda file: render_file(file, duplicate_of=originals.get(file.id))))


class FileView(TenantAPIView):
    """One file."""

    operations: ClassVar = {"GET": "files.retrieve", "DELETE": "files.delete"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_FILE, "DELETE": contracts.DELETE_FILE}

    def get(self, request: Request, file_id: str) -> Response:
        """The file object."""
        with tenant_scope(self.principal.organization_id):
            return Response(show_file(get_file(project=self.project, wire_id=file_id), self.project))

    def delete(self, request: Request, file_id: str) -> Response:
        """Delete, unless a job needs it."""
        file = delete_file(project=self.project, wire_id=file_id, actor=self.principal.actor)
        return Response({"id": file.wire_id, "object": "file", "deleted": True})


class FileContentView(TenantAPIView):
    """The bytes of a file."""

    operations: ClassVar = {"GET": "files.content"}
    contracts: ClassVar = {"GET": contracts.FILE_CONTENT}

    def get(self, request: Request, file_id: str) -> HttpResponseBase:
        """Stream them, or the one range that was asked for."""
        with tenant_scope(self.principal.organization_id):
            file = get_file(project=self.project, wire_id=file_id)
        span = _byte_range(request.headers.get("Range"), file.bytes)
        start, stop = span or (0, file.bytes)
        headers = {
            "Content-Length": str(stop - start),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
            "Accept-Ranges": "bytes",
            "ETag": f'"{file.sha256}"',
            # Customer bytes are never rendered as a page of ours.
            "X-Content-Type-Options": "nosniff",
        }
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.bytes}"
        return StreamingHttpResponse(
            BlobRange(file.storage_key, start, stop - start),
            status=206 if span else 200,
            content_type="application/octet-stream",
            headers=headers,
        )


def _new_file(form: Form) -> NewFile:
    fields = dict(form.fields)
    purpose = fields.pop("purpose", None)
    if purpose is None:
        raise HoneError("missing_required_parameter", "Missing required parameter: 'purpose'.", param="purpose")
    purpose = read_purpose(purpose)
    anchor = fields.pop("expires_after[anchor]", None)
    seconds = fields.pop("expires_after[seconds]", None)
    if fields:
        name = next(iter(fields))
        raise HoneError("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)
    filename = read_filename(form.filename or "", param="file")
    return NewFile(filename=filename, purpose=purpose, lifetime=_lifetime(anchor, seconds))


def _lifetime(anchor: str | None, seconds: str | None) -> timedelta | None:
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise HoneError("invalid_value", "'expires_after[anchor]' must be 'created_at'", param="expires_after[anchor]")
    lifetime = int(seconds) if seconds and re.fullmatch(r"\d{1,9}", seconds, re.ASCII) else 0
    if lifetime not in EXPIRY_SECONDS:
        raise HoneError(
            "invalid_value",
            f"'expires_after[seconds]' must be a number from {EXPIRY_SECONDS[0]} to {EXPIRY_SECONDS[-1]}",
            param="expires_after[seconds]",
        )
    return timedelta(seconds=lifetime)


def _byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """``(start, stop)`` of a single-range request (RFC 9110, 14.1.2); None means the whole file.

    A malformed header or one with several ranges is ignored, as the RFC allows.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").strip(), re.ASCII)
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    else:
        start, stop = max(0, size - int(last)), size
    if start >= size or start >= stop:
        raise HoneError("range_not_satisfiable", f"The file has {size} bytes; the range '{header}' lies outside")
    return start, stop
