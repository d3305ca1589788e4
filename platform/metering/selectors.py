"""Reads of usage: exact sums in buckets of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from accounts.models import User
from common.ids import from_wire, to_wire
from metering.buckets import Span
from metering.models import UsageEvent
from tenants.models import ApiKey, Project

GROUPS = {
    "project_id": "event.project_id",
    "api_key_id": "event.api_key_id",
    "user_id": "key.created_by_id",
    "model": "event.model",
    "batch": "event.job <> ''",
}
"""What usage can be grouped by, and the expression for it; names of our own."""
_PREFIXES = {"project_id": Project.ID_PREFIX, "api_key_id": ApiKey.ID_PREFIX, "user_id": User.ID_PREFIX}

FROM_EVENTS = """
FROM metering_usageevent event JOIN tenants_apikey key ON key.id = event.api_key_id
WHERE event.organization_id = %(organization)s AND event.occurred_at >= %(start)s AND event.occurred_at < %(stop)s
    AND (%(operation)s IS NULL OR event.operation = %(operation)s)
    AND (%(project_ids)s::uuid[] IS NULL OR event.project_id = ANY (%(project_ids)s::uuid[]))
    AND (%(api_key_ids)s::uuid[] IS NULL OR event.api_key_id = ANY (%(api_key_ids)s::uuid[]))
    AND (%(user_ids)s::uuid[] IS NULL OR key.created_by_id = ANY (%(user_ids)s::uuid[]))
    AND (%(models)s::text[] IS NULL OR event.model = ANY (%(models)s::text[]))
    AND (%(batch)s::boolean IS NULL OR (event.job <> '') = %(batch)s)
"""
BUCKET = "floor(extract(epoch FROM event.occurred_at) / %(width)s)::bigint * %(width)s"


@dataclass(frozen=True, kw_only=True)
class UsageFilter:
    """Which usage to count, in wire ids; empty lists narrow nothing. What is somebody else's matches nothing."""

    operation: UsageEvent.Operation | None = None
    project_ids: Sequence[str] = ()
    api_key_ids: Sequence[str] = ()
    user_ids: Sequence[str] = ()
    models: Sequence[str] = ()
    batch: bool | None = None

    def parameters(self, *, organization_id: UUID, span: Span) -> dict[str, Any]:
        """For :data:`FROM_EVENTS` and :data:`BUCKET`."""
        start, stop = span.moments
        return {
            "organization": organization_id,
            "start": start,
            "stop": stop,
            "width": span.width,
            "operation": self.operation,
            "project_ids": _uuids(Project.ID_PREFIX, self.project_ids),
            "api_key_ids": _uuids(ApiKey.ID_PREFIX, self.api_key_ids),
            "user_ids": _uuids(User.ID_PREFIX, self.user_ids),
            "models": list(self.models) or None,
            "batch": self.batch,
        }


@dataclass(frozen=True)
class UsageSum:
    """One group of one bucket; ``group`` has wire ids by the name of what was grouped by."""

    bucket: int
    group: dict[str, Any]
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def usage_by_bucket(
    *, organization_id: UUID, span: Span, wanted: UsageFilter, group_by: Sequence[str]
) -> list[UsageSum]:
    """Sums of a page's buckets in order, of those with usage; each bucket by its start on the clock. In the scope."""
    groups = [GROUPS[name] for name in group_by]
    keys = ", ".join(str(number) for number in range(1, len(groups) + 2))
    columns = ", ".join([BUCKET, *groups])
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {columns}, sum(event.requests), sum(event.input_tokens), sum(event.cached_tokens),
                sum(event.output_tokens)
            {FROM_EVENTS} GROUP BY {keys} ORDER BY {keys}
            """,  # expressions of our own
            wanted.parameters(organization_id=organization_id, span=span),
        )
        rows = cursor.fetchall()
    return [
        UsageSum(row[0], named_group(group_by, row[1:]), *(int(value) for value in row[len(groups) + 1 :]))
        for row in rows
    ]


def named_group(group_by: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values of a group by name, ids as they are on the wire."""
    return {
        name: to_wire(_PREFIXES[name], value) if name in _PREFIXES and value is not None else value
        for name, value in zip(group_by, values, strict=False)
    }


def _uuids(prefix: str, texts: Sequence[str]) -> list[UUID] | None:
    """None for no list at all; what is no id matches nothing."""
    if not texts:
        return None
    return [value for text in texts if (value := from_wire(prefix, text)) is not None]
