"""``/internal/v1``: the data of a training out to a node, its events and artefacts back in."""

from django.conf import settings
from django.http import StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob
from finetuning.artifacts import INPUTS, open_artifact, store_artifact
from finetuning.training import take_events
from fleet.api import LeaseAPIView, message
from fleet.models import Lease
from inference_workers.protocol import DIGEST_HEADER, TrainingEvents


class InputView(LeaseAPIView):
    """What the trainer is given."""

    def get(self, request: Request, lease_id: str, name: str) -> StreamingHttpResponse:
        """Stream it."""
        return _stream(self.lease, f"{INPUTS}{name}")


class ArtifactView(LeaseAPIView):
    """What a node has made of it."""

    def get(self, request: Request, lease_id: str, path: str) -> StreamingHttpResponse:
        """Stream what has been put, whoever did."""
        return _stream(self.lease, path)

    def put(self, request: Request, lease_id: str, path: str) -> Response:
        """201 when stored now, 200 when it had been."""
        with IncomingBlob(max_bytes=settings.ARTIFACT_MAX_BYTES, param="path") as blob:
            stream = request.stream
            while stream is not None and (chunk := stream.read(CHUNK_BYTES)):
                blob.write(chunk)
            if blob.size < int(request.META.get("CONTENT_LENGTH") or 0):
                raise HoneError("invalid_request", "The artefact was cut off")
            digest = request.headers.get(DIGEST_HEADER, "")
            is_new = store_artifact(lease=self.lease, path=path, blob=blob, sha256=digest)
        return Response({}, status=201 if is_new else 200)


class EventsView(LeaseAPIView):
    """What the trainer reports."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Note what is new."""
        take_events(lease=self.lease, events=message(TrainingEvents, request).events)
        return Response({})


def _stream(lease: Lease, path: str) -> StreamingHttpResponse:
    artifact, content = open_artifact(lease=lease, path=path)
    return StreamingHttpResponse(
        content, content_type="application/octet-stream", headers={"Content-Length": str(artifact.bytes)}
    )
