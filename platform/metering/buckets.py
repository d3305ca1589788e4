"""Buckets of time, as usage and costs are asked for and shown.

Buckets lie on the clock (UTC), and the first and the last are cut off at what was asked for: each says exactly from
when until when it counts. A page holds ``limit`` of them, empty ones included.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.http import QueryDict

from common import query as read
from common.errors import HoneError
from common.pagination import page_limit

HOUR = 3_600
WIDTHS = {"1m": 60, "1h": HOUR, "1d": 24 * HOUR}
"""Seconds."""
LIMITS = {"1m": (60, 1_440), "1h": (24, 168), "1d": (7, 31)}
"""How many buckets a page has by default, and at most."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """The buckets of one page: seconds since 1970, the end not included."""

    start: int
    end: int
    """Of all pages."""
    width: int
    limit: int
    most: int
    """Buckets that one page may have."""

    @property
    def stop(self) -> int:
        """Where this page ends."""
        return min(self.end, (self.start // self.width + self.limit) * self.width)

    @property
    def starts(self) -> list[int]:
        """Where the buckets of this page begin; none when nothing lies between start and end."""
        if self.stop <= self.start:
            return []
        first = self.start // self.width * self.width
        return [max(self.start, begin) for begin in range(first, self.stop, self.width)]

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Where this page starts, where its whole hours do, where they end, and where the page does.

        Without whole hours, or with buckets that are shorter, those are at the end.
        """
        first = -(-self.start // HOUR) * HOUR
        last = self.stop // HOUR * HOUR
        if self.width < HOUR or last <= first:
            return self.start, self.stop, self.stop, self.stop
        return self.start, first, last, self.stop


def read_span(query: QueryDict, *, widths: tuple[str, ...], most: tuple[int, int] | None = None) -> Span:
    """The span that a query asks for; ``most`` replaces the default and greatest number of buckets."""
    name = query.get("bucket_width", "1d")
    if name not in widths:
        raise HoneError("invalid_value", f"'bucket_width' must be one of {', '.join(widths)}", param="bucket_width")
    default, greatest = most or LIMITS[name]
    limit = page_limit(
        {"limit": query.get("limit", str(default))}, max_limit=greatest, default_limit=default
    )  # fmt: skip
    start = read.seconds(query, "start_time")
    if start is None:
        raise HoneError(
            "missing_required_parameter", "Missing required parameter: 'start_time'.", param="start_time"
        )  # fmt: skip
    end = read.seconds(query, "end_time")
    if end is not None and end <= start:
        raise HoneError("invalid_value", "'end_time' must be later than 'start_time'", param="end_time")
    page = query.get("page")
    if page:
        start, end = _read_cursor(page)
    elif end is None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT ceil(extract(epoch FROM now()))::bigint")
            end = max(cursor.fetchone()[0], start)
    return Span(start=start, end=end, width=WIDTHS[name], limit=limit, most=greatest)


def render_page(span: Span, results: Mapping[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """The wire object; ``results`` by the start of the bucket on the clock."""
    data = [
        {
            "object": "bucket",
            "start_time": start,
            "end_time": min(span.stop, (start // span.width + 1) * span.width),
            "results": results.get(start // span.width * span.width, []),
        }
        for start in span.starts
    ]
    has_more = span.stop < span.end
    return {
        "object": "page",
        "data": data,
        "has_more": has_more,
        "next_page": f"page_{span.stop}_{span.end}" if has_more else None,
    }


def _read_cursor(text: str) -> tuple[int, int]:
    """The end stays the one of the first page, also where that was *now*."""
    match = re.fullmatch(r"page_(\d{1,12})_(\d{1,12})", text, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]) <= read.MAX_SECONDS:
        raise HoneError("invalid_value", "'page' is not the next_page of an answer", param="page")
    return int(match[1]), int(match[2])
