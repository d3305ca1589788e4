"""What work has cost, by day: the tokens that were used at the prices that they were counted with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from metering.buckets import Span
from metering.selectors import BUCKET, GROUPS, USED, UsageFilter, named_group

# A line item is one kind of tokens of one model: online, in batches, or in training. Cost is linear in tokens
# (metering.cost_of), so the items of a sum add up to what it cost.
_LINE_ITEM = """used.model
    || CASE WHEN used.operation = 'training' THEN ', training' WHEN used.is_batch THEN ', batch' ELSE '' END
    || ', ' || item.name"""
# Summed up first, so that prices and names are looked up for a few sums instead of for every hour of every key.
_ITEMS = """
FROM (
    SELECT {bucket} AS bucket, {groups} used.model, used.operation, used.is_batch, used.price_id,
        sum(used.input_tokens) AS input_tokens, sum(used.cached_tokens) AS cached_tokens,
        sum(used.output_tokens) AS output_tokens
    {used} GROUP BY {keys}
) used
JOIN catalog_price price ON price.id = used.price_id
CROSS JOIN LATERAL (VALUES
    ('input_tokens', used.input_tokens - used.cached_tokens, price.input_nanos),
    ('cached_input_tokens', used.cached_tokens, price.cached_input_nanos),
    ('output_tokens', used.output_tokens, price.output_nanos)
) AS item (name, tokens, nanos)
WHERE item.tokens > 0 AND (%(line_items)s::text[] IS NULL OR {line_item} = ANY (%(line_items)s::text[]))
"""  # expressions of our own


@dataclass(frozen=True)
class CostSum:
    """One group of one bucket."""

    bucket: int
    group: dict[str, Any]
    tokens: int
    nanos: int


def costs_by_bucket(
    *, organization_id: UUID, span: Span, wanted: UsageFilter, line_items: Sequence[str], group_by: Sequence[str]
) -> list[CostSum]:
    """Sums of a page's buckets in order, of those with costs. Call inside the scope."""
    kept = [name for name in group_by if name != "line_item"]
    items = _ITEMS.format(
        bucket=BUCKET,
        groups="".join(f"{GROUPS[name]} AS {name}, " for name in kept),
        used=USED,
        keys=", ".join(str(number) for number in range(1, len(kept) + 6)),
        line_item=_LINE_ITEM,
    )
    groups = [_LINE_ITEM if name == "line_item" else f"used.{name}" for name in group_by]
    keys = ", ".join(str(number) for number in range(1, len(groups) + 2))
    columns = ", ".join(["used.bucket", *groups])
    parameters = wanted.parameters(organization_id=organization_id, span=span)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {columns}, sum(item.tokens), sum(item.tokens * item.nanos) {items}
            GROUP BY {keys} ORDER BY {keys}
            """,  # expressions of our own
            {**parameters, "line_items": list(line_items) or None},
        )
        rows = cursor.fetchall()
    return [CostSum(row[0], named_group(group_by, row[1:-2]), int(row[-2]), int(row[-1])) for row in rows]
