"""``/v1/batches``."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from batches.models import Batch
from batches.requests import ENDPOINTS
from batches.selectors import get_batch, project_batches
from batches.services import WINDOWS, NewBatch, cancel_batch, create_batch
from common.http import StrictSerializer, parsed
from common.ids import to_wire
from common.pagination import page_request, paginate
from files.models import StoredFile
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope

_TIMESTAMPS = (
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip


class MetadataField(serializers.DictField):
    """At most 16 pairs of a key (64 characters) and a text (512)."""

    child = serializers.CharField(max_length=512, allow_blank=True, trim_whitespace=False)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        """Check the keys too."""
        value: dict[str, str] = super().to_internal_value(data)
        if any(not isinstance(text, str) for text in data.values()):
            raise serializers.ValidationError("values must be strings")
        if len(value) > 16:
            raise serializers.ValidationError("at most 16 pairs are allowed")
        if any(not 0 < len(key) <= 64 or "\0" in key for key in value):
            raise serializers.ValidationError("keys have 1 to 64 characters")
        return value


class ExpiresAfterSerializer(StrictSerializer):
    """When output files expire."""

    anchor = serializers.ChoiceField(choices=["created_at"])
    seconds = serializers.IntegerField(min_value=3_600, max_value=2_592_000)


class CreateBatchSerializer(StrictSerializer):
    """Body of ``POST /v1/batches``; ``on_invalid`` is ours."""

    input_file_id = serializers.CharField(max_length=100)
    endpoint = serializers.ChoiceField(choices=sorted(ENDPOINTS))
    completion_window = serializers.ChoiceField(choices=sorted(WINDOWS))
    metadata = MetadataField(required=False, allow_null=True)
    output_expires_after = ExpiresAfterSerializer(required=False, allow_null=True)
    on_invalid = serializers.ChoiceField(choices=Batch.OnInvalid.values, required=False, default="fail")


def render_batch(batch: Batch) -> dict[str, Any]:
    """The wire object; ``cost_nanos`` (nano-USD), ``on_invalid`` and ``held_reason`` are ours."""
    return {
        "id": batch.wire_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model or None,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": to_wire(StoredFile.ID_PREFIX, batch.input_file_id),
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": _file_id(batch.output_file_id),
        "error_file_id": _file_id(batch.error_file_id),
        "created_at": int(batch.created_at.timestamp()),
        **{name: _seconds(getattr(batch, name)) for name in _TIMESTAMPS},
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed + batch.expired + batch.cancelled,
        },
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": batch.cached_tokens},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": batch.metadata or None,
        "on_invalid": batch.on_invalid,
        "cost_nanos": batch.cost_nanos,
        "held_reason": batch.held_reason or None,
    }


class BatchListView(TenantAPIView):
    """Create a batch; list the project's batches."""

    operations: ClassVar = {"POST": "batches.create", "GET": "batches.list"}

    def post(self, request: Request) -> Response:
        """Accept and queue."""
        data = parsed(CreateBatchSerializer, request)
        expiry = data.get("output_expires_after")
        new = NewBatch(
            input_file_id=data["input_file_id"],
            endpoint=data["endpoint"],
            completion_window=data["completion_window"],
            on_invalid=Batch.OnInvalid(data["on_invalid"]),
            metadata=data.get("metadata") or {},
            output_lifetime_seconds=expiry["seconds"] if expiry else None,
        )
        batch = create_batch(
            project=self.project, key=self.principal.key, new=new, request=self.create_request(request.data)
        )
        return Response(render_batch(batch))

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=Batch.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(project_batches(project=self.project), wanted)
        return Response(page.render(render_batch))


class BatchView(TenantAPIView):
    """One batch."""

    operations: ClassVar = {"GET": "batches.retrieve"}

    def get(self, request: Request, batch_id: str) -> Response:
        """The batch object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_batch(get_batch(project=self.project, wire_id=batch_id)))


class BatchCancelView(TenantAPIView):
    """Cancel a batch."""

    operations: ClassVar = {"POST": "batches.cancel"}

    def post(self, request: Request, batch_id: str) -> Response:
        """Cancel; what has finished is kept."""
        batch = cancel_batch(project=self.project, wire_id=batch_id, actor=self.principal.actor)
        return Response(render_batch(batch))


def _file_id(file_id: UUID | None) -> str | None:
    return to_wire(StoredFile.ID_PREFIX, file_id) if file_id else None


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
