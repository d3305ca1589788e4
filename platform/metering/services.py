"""Writes of usage."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from django.db import connections
from django.utils import timezone

from catalog.models import Price
from common.database import SYSTEM
from metering.models import UsageEvent

MAX_TOKENS = 2**31 - 1
"""Of one request; more is no count of tokens."""


@dataclass(frozen=True)
class Quantities:
    """Tokens of one or several requests; input tokens include the cached ones, output the reasoning ones."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Quantities") -> Self:
        return type(self)(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @classmethod
    def of_response(cls, body: object) -> Self:
        """Read the ``usage`` member of an engine's response; what is missing or senseless counts as zero."""
        usage = body.get("usage") if isinstance(body, dict) else None
        if not isinstance(usage, dict):
            return cls(requests=1)
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        return cls(
            requests=1,
            input_tokens=prompt,
            cached_tokens=min(prompt, _count(usage.get("prompt_tokens_details"), "cached_tokens")),
            output_tokens=completion,
            reasoning_tokens=min(completion, _count(usage.get("completion_tokens_details"), "reasoning_tokens")),
        )


def cost_of(*, quantities: Quantities, price: Price) -> int:
    """Nano-USD. Integers throughout, so the cost of a sum is the sum of the costs."""
    return (
        (quantities.input_tokens - quantities.cached_tokens) * price.input_nanos
        + quantities.cached_tokens * price.cached_input_nanos
        + quantities.output_tokens * price.output_nanos
    )


def record_usage(
    *,
    organization_id: UUID,
    project_id: UUID,
    api_key_id: UUID,
    source: str,
    job: str,
    operation: UsageEvent.Operation,
    model: str,
    price: Price,
    quantities: Quantities,
    occurred_at: datetime | None = None,
) -> UsageEvent:
    """Write one event, in the transaction of the work that it counts; it happened now unless a moment is given."""
    return UsageEvent.objects.create(
        organization_id=organization_id,
        project_id=project_id,
        api_key_id=api_key_id,
        source=source,
        job=job,
        operation=operation,
        model=model,
        price=price,
        requests=quantities.requests,
        input_tokens=quantities.input_tokens,
        cached_tokens=quantities.cached_tokens,
        output_tokens=quantities.output_tokens,
        cost_nanos=cost_of(quantities=quantities, price=price),
        occurred_at=occurred_at or timezone.now(),
    )


def add_partitions() -> None:
    """Give usage events of this month and the next two a partition, where there is none. Works across tenants."""
    with connections[SYSTEM].cursor() as cursor:
        cursor.execute(
            "SELECT metering_add_month((now() + make_interval(months => ahead))::date) FROM generate_series(0, 2) ahead"
        )


def _count(container: object, name: str) -> int:
    value = container.get(name) if isinstance(container, dict) else None
    return value if type(value) is int and 0 < value <= MAX_TOKENS else 0
