"""Reads of usage: exact sums in buckets of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from accounts.models import User
from common.ids import from_wire, to_wire
from metering.buckets import Span
from metering.models import UsageEvent
from tenants.models import ApiKey, Project

GROUPS = {
    "project_id": "used.project_id",
    "api_key_id": "used.api_key_id",
    "user_id": "key.created_by_id",
    "model": "used.model",
    "batch": "used.is_batch",
}
"""What usage can be grouped by, and the expression for it; names of our own."""
_PREFIXES = {"project_id": Project.ID_PREFIX, "api_key_id": ApiKey.ID_PREFIX, "user_id": User.ID_PREFIX}

_EVENTS = """
    SELECT occurred_at, project_id, api_key_id, operation, model, job <> '', price_id, requests, input_tokens,
        cached_tokens, output_tokens
    FROM metering_usageevent
    WHERE organization_id = %(organization)s"""
# Whole hours are read as such, from the sums; what is cut off before and after them from the events themselves.
USED = f"""
FROM (
    SELECT hour AS at, project_id, api_key_id, operation, model, is_batch, price_id, requests, input_tokens,
        cached_tokens, output_tokens
    FROM metering_usagehour
    WHERE organization_id = %(organization)s AND hour >= %(first_hour)s AND hour < %(last_hour)s
    UNION ALL {_EVENTS} AND occurred_at >= %(start)s AND occurred_at < %(first_hour)s
    UNION ALL {_EVENTS} AND occurred_at >= %(last_hour)s AND occurred_at < %(stop)s
) used JOIN tenants_apikey key ON key.id = used.api_key_id
WHERE (%(operation)s IS NULL OR used.operation = %(operation)s)
    AND (%(project_ids)s::uuid[] IS NULL OR used.project_id = ANY (%(project_ids)s::uuid[]))
    AND (%(api_key_ids)s::uuid[] IS NULL OR used.api_key_id = ANY (%(api_key_ids)s::uuid[]))
    AND (%(user_ids)s::uuid[] IS NULL OR key.created_by_id = ANY (%(user_ids)s::uuid[]))
    AND (%(models)s::text[] IS NULL OR used.model = ANY (%(models)s::text[]))
    AND (%(batch)s::boolean IS NULL OR used.is_batch = %(batch)s)
"""  # noqa: S608  # text of our own
BUCKET = "floor(extract(epoch FROM used.at) / %(width)s)::bigint * %(width)s"


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
        """For :data:`USED` and :data:`BUCKET`."""
        start, first_hour, last_hour, stop = (datetime.fromtimestamp(at, UTC) for at in span.edges)
        return {
            "organization": organization_id,
            "start": start,
            "first_hour": first_hour,
            "last_hour": last_hour,
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
            SELECT {columns}, sum(used.requests), sum(used.input_tokens), sum(used.cached_tokens),
                sum(used.output_tokens)
            {USED} GROUP BY {keys} ORDER BY {keys}
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
