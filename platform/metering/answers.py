"""What is answered about usage and costs: a page of buckets, or all of them as CSV."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from django.http import QueryDict, StreamingHttpResponse
from rest_framework.response import Response

from common import query as read
from common.errors import HoneError
from metering.buckets import Span, render_page

FORMATS = ("json", "csv")
MAX_CSV_BUCKETS = 100_000
"""Two months of minutes: each page of buckets is a question to the database, whether it finds something or not."""


class Sum(Protocol):
    """One group of one bucket."""

    @property
    def bucket(self) -> int:
        """The start of the bucket on the clock."""


Found = TypeVar("Found", bound=Sum)


def respond(
    *,
    query: QueryDict,
    span: Span,
    find: Callable[[Span], Iterable[Found]],
    render: Callable[[Found], dict[str, Any]],
    columns: Sequence[str],
) -> Response | StreamingHttpResponse:
    """The page that ``span`` is or, with ``format=csv``, a line for each result of all pages.

    ``find`` gives a page's sums in order, ``render`` the wire object of one. ``columns`` are members of that; of one
    that is an object itself its ``value`` is shown.
    """

    def page(span: Span) -> dict[str, Any]:
        results: dict[int, list[dict[str, Any]]] = {}
        for found in find(span):
            results.setdefault(found.bucket, []).append(render(found))
        return render_page(span, results)

    if read.choice(query, "format", FORMATS) != "csv":
        return Response(page(span))
    if (span.end - span.start) // span.width > MAX_CSV_BUCKETS:
        raise HoneError(
            "invalid_value",
            f"CSV has at most {MAX_CSV_BUCKETS:,} buckets: ask for less or longer ones",
            param="start_time",
        )
    lines = _lines(replace(span, limit=span.most), page, columns)
    headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
    return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8", headers=headers)


class _Echo:
    """Has the csv module return each line that it writes."""

    def write(self, text: str) -> str:
        return text


def _lines(span: Span, page: Callable[[Span], dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(["start_time", "end_time", *columns])
    while span.start < span.end:
        for bucket in page(span)["data"]:
            moments = [datetime.fromtimestamp(bucket[name], UTC).isoformat() for name in ("start_time", "end_time")]
            for result in bucket["results"]:
                yield writer.writerow([*moments, *(_cell(result[name]) for name in columns)])
        span = replace(span, start=span.stop)


def _cell(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) else value
