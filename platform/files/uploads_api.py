"""``/v1/uploads``: files that arrive in parts."""

from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import HoneError
from common.http import parsed
from common.ids import to_wire
from common.storage import IncomingBlob
from files import contracts
from files.api import read_filename, read_purpose, show_file
from files.contracts import CompleteUploadSerializer, CreateUploadSerializer
from files.models import Upload, UploadPart
from files.multipart import receive
from files.services import NewFile
from files.uploads import Completion, add_part, cancel_upload, complete_upload, create_upload
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


def render_part(part: UploadPart) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": part.wire_id,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": to_wire(Upload.ID_PREFIX, part.upload_id),
    }


class UploadAPIView(TenantAPIView):
    """What the views of uploads share."""

    def answer(self, upload: Upload) -> Response:
        """The upload object, with the file that has become of it."""
        with tenant_scope(upload.organization_id):
            file = show_file(upload.file, self.project) if upload.file else None
        return Response(
            {
                "id": upload.wire_id,
                "object": "upload",
                "bytes": upload.bytes,
                "created_at": int(upload.created_at.timestamp()),
                "expires_at": int(upload.expires_at.timestamp()),
                "filename": upload.filename,
                "purpose": upload.purpose,
                "status": upload.status,
                "file": file,
            }
        )


class UploadListView(UploadAPIView):
    """Announce a file."""

    operations: ClassVar = {"POST": "uploads.create"}
    contracts: ClassVar = {"POST": contracts.CREATE_UPLOAD}

    def post(self, request: Request) -> Response:
        """Reserve its room."""
        data = parsed(CreateUploadSerializer, request)
        expiry = data.get("expires_after")
        new = NewFile(
            filename=read_filename(data["filename"], param="filename"),
            purpose=read_purpose(data["purpose"]),
            lifetime=timedelta(seconds=expiry["seconds"]) if expiry else None,
        )
        upload = create_upload(
            project=self.project,
            new=new,
            size=data["bytes"],
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return self.answer(upload)


class UploadPartListView(TenantAPIView):
    """Send bytes."""

    operations: ClassVar = {"POST": "uploads.add_part"}
    contracts: ClassVar = {"POST": contracts.ADD_PART}

    def post(self, request: Request, upload_id: str) -> Response:
        """Stream them to the storage, and only then ask whether anybody waits for them.

        Refused earlier, while the client is still sending, it would see a broken connection instead of the reason.
        """
        with IncomingBlob(max_bytes=settings.UPLOAD_PART_MAX_BYTES, param="data") as blob:
            fields = receive(request, blob, file_field="data").fields
            if fields:
                name = next(iter(fields))
                raise HoneError("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)
            part = add_part(
                project=self.project,
                wire_id=upload_id,
                blob=blob,
                actor=self.principal.actor,
                request=self.create_request({}, digest=blob.sha256),
            )
        return Response(render_part(part))


class UploadCompleteView(UploadAPIView):
    """Make the file."""

    operations: ClassVar = {"POST": "uploads.complete"}
    contracts: ClassVar = {"POST": contracts.COMPLETE_UPLOAD}

    def post(self, request: Request, upload_id: str) -> Response:
        """Join the parts."""
        data = parsed(CompleteUploadSerializer, request)
        wanted = Completion(
            part_ids=data["part_ids"],
            md5=data.get("md5"),
            actor=self.principal.actor,
            created_by=self.principal.key.id,
        )
        asked = self.create_request(request.data)
        return self.answer(complete_upload(project=self.project, wire_id=upload_id, wanted=wanted, request=asked))


class UploadCancelView(UploadAPIView):
    """Give up an upload."""

    operations: ClassVar = {"POST": "uploads.cancel"}
    contracts: ClassVar = {"POST": contracts.CANCEL_UPLOAD}

    def post(self, request: Request, upload_id: str) -> Response:
        """No part is taken any more, and no file made."""
        return self.answer(cancel_upload(project=self.project, wire_id=upload_id, actor=self.principal.actor))
