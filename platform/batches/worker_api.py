"""``/internal/v1``: the rows of a shard out to a node, its results back in."""

from django.http import StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from batches.handlers import shard_input
from batches.results import commit_segment
from common.errors import HoneError
from fleet.api import LeaseAPIView
from inference_workers.protocol import MAX_SEGMENT_BYTES

NDJSON = "application/x-ndjson"


class LeaseInputView(LeaseAPIView):
    """The rows of a leased shard."""

    def get(self, request: Request, lease_id: str) -> StreamingHttpResponse:
        """Stream those without a result."""
        return StreamingHttpResponse(shard_input(lease=self.lease), content_type=NDJSON)


class SegmentView(LeaseAPIView):
    """Results of some rows."""

    def put(self, request: Request, lease_id: str, number: int) -> Response:
        """201 when stored now, 200 when it had been."""
        # As the bytes came, for their digest; no parser.
        body = request.stream.read(MAX_SEGMENT_BYTES + 1) if request.stream else b""
        if len(body) > MAX_SEGMENT_BYTES:
            raise HoneError("request_too_large", f"A segment may hold at most {MAX_SEGMENT_BYTES} bytes")
        # A connection that breaks between two lines leaves what looks like a smaller segment.
        if len(body) < int(request.META.get("CONTENT_LENGTH") or 0):
            raise HoneError("invalid_request", "The segment was cut off")
        is_new = commit_segment(lease=self.lease, number=number, body=body)
        return Response({}, status=201 if is_new else 200)
