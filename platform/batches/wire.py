"""Batches as JSON: what requests may hold, and the objects that answer them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from rest_framework import serializers

from batches.live_results import LiveResult
from batches.models import Batch
from batches.progress import Progress
from batches.quotes import Quote
from batches.requests import ENDPOINTS
from batches.services import WINDOWS
from common.fields import DollarsField, MetadataField
from common.http import StrictSerializer
from common.ids import to_wire
from common.money import format_usd
from files.api import ExpiresAfterSerializer
from files.models import StoredFile

_TIMESTAMPS = (
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip


class QuoteSerializer(StrictSerializer):
    """Body of ``POST /v1/batches/quote``."""

    input_file_id = serializers.CharField(max_length=100)
    endpoint = serializers.ChoiceField(choices=sorted(ENDPOINTS))
    completion_window = serializers.ChoiceField(choices=sorted(WINDOWS))


class CreateBatchSerializer(StrictSerializer):
    """Body of ``POST /v1/batches``; ``requests``, ``on_invalid`` and ``max_cost`` are ours."""

    input_file_id = serializers.CharField(max_length=100, required=False)
    requests = serializers.ListField(child=serializers.DictField(), required=False, allow_empty=False)
    endpoint = serializers.ChoiceField(choices=sorted(ENDPOINTS))
    completion_window = serializers.ChoiceField(choices=sorted(WINDOWS))
    metadata = MetadataField(required=False, allow_null=True)
    output_expires_after = ExpiresAfterSerializer(required=False, allow_null=True)
    on_invalid = serializers.ChoiceField(choices=Batch.OnInvalid.values, required=False, default="fail")
    max_cost = DollarsField(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The input comes in one of two ways."""
        if "input_file_id" in attrs and "requests" in attrs:
            raise serializers.ValidationError({"requests": "give either 'input_file_id' or 'requests'"})
        if "input_file_id" not in attrs and "requests" not in attrs:
            raise serializers.ValidationError({"input_file_id": ["This field is required."]}, code="required")
        return attrs


def render_batch(batch: Batch, progress: Progress) -> dict[str, Any]:
    """The wire object; what follows ``metadata`` is ours (money in nano-USD, ``max_cost`` in dollars)."""
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
        "usage": _usage(batch),
        "metadata": batch.metadata or None,
        "on_invalid": batch.on_invalid,
        "retry_of": to_wire(Batch.ID_PREFIX, batch.retry_of_id) if batch.retry_of_id else None,
        "cost_nanos": batch.cost_nanos,
        "max_cost": format_usd(batch.max_cost_nanos) if batch.max_cost_nanos is not None else None,
        "paused": bool(batch.pause_reason),
        "waiting_reason": progress.waiting_reason,
        "queue_position": progress.queue_position,
        "estimated_finish_at": _seconds(progress.estimated_finish_at),
        "held_reason": batch.held_reason or None,
    }


def render_result(result: LiveResult) -> dict[str, Any]:
    """One row of ``GET /v1/batches/{id}/results``."""
    row = result.row
    return {
        "id": result.id,
        "object": "batch.result",
        "line": row.line,
        "custom_id": row.custom_id,
        "status": result.status,
        "attempts": result.attempts,
        "usage": _usage(row),
        "cost_nanos": row.cost_nanos,
        "response": result.response,
        "error": result.error,
    }


def render_quote(quote: Quote) -> dict[str, Any]:
    """What a batch would cost: expected, at most, and whether the balance pays for that (nano-USD)."""
    return {
        "object": "batch.quote",
        "request_counts": {
            "total": quote.total,
            "valid": quote.total - quote.codes.total(),
            "invalid": quote.codes.total(),
        },
        "invalid_codes": dict(quote.codes),
        "errors": {"object": "list", "data": quote.errors},
        "models": [
            {
                "model": name,
                "requests": model.quantities.requests,
                "estimated_input_tokens": model.quantities.input_tokens,
                "estimated_output_tokens": model.quantities.output_tokens,
                "input_nanos_per_token": model.price.input_nanos,
                "output_nanos_per_token": model.price.output_nanos,
                "estimated_cost_nanos": model.cost_nanos,
                "max_cost_nanos": model.bound_nanos,
            }
            for name, model in sorted(quote.models.items())
        ],
        "estimated_cost_nanos": quote.cost_nanos,
        "max_cost_nanos": quote.bound_nanos,
        "available_nanos": quote.available_nanos,
        "is_affordable": quote.bound_nanos <= quote.available_nanos,
    }


def _usage(counted: Any) -> dict[str, Any]:
    return {
        "input_tokens": counted.input_tokens,
        "input_tokens_details": {"cached_tokens": counted.cached_tokens},
        "output_tokens": counted.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        "total_tokens": counted.input_tokens + counted.output_tokens,
    }


def _file_id(file_id: UUID | None) -> str | None:
    return to_wire(StoredFile.ID_PREFIX, file_id) if file_id else None


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
