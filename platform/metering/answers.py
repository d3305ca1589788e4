"""What is answered about usage and costs: a page of buckets, or all of them as CSV."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.http import QueryDict, StreamingHttpResponse
from rest_framework.response import Response

from common import query as read
from common.errors import HoneError
from metering.buckets import Span, render_page

FORMATS = ("json", "csv")
MAX_CSV_BUCKETS = 100_000
"""Two months of minutes: each page of buckets is a question to the database, whether it finds something or not."""

Results = Mapping[int, list[dict[str, Any]]]
"""Wire objects by the start of their bucket on the clock."""


def respond(
    *, query: QueryDict, span: Span, most: int, results_of: Callable[[Span], Results], columns: Sequence[str]
) -> Response | StreamingHttpResponse:
    """The page that ``span`` is or, with ``format=csv``, a line for each result of all pages, ``most`` buckets at once.

    ``columns`` are members of the wire object; of one that is an object itself its ``value`` is shown.
    """
    if read.choice(query, "format", FORMATS) != "csv":
        return Response(render_page(span, results_of(span)))
    if (span.end - span.start) // span.width > MAX_CSV_BUCKETS:
        raise HoneError(
            "invalid_value",
            f"CSV has at most {MAX_CSV_BUCKETS:,} buckets: ask for less or longer ones",
            param="start_time",
        )
    lines = _lines(replace(span, limit=most), results_of, columns)
    headers = {"Content-Disposition": 'attachment; filename="usage.csv"'}
    return StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8", headers=headers)


class _Line:
    """What the csv module writes to: keeps the one line that was written last."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text


def _lines(span: Span, results_of: Callable[[Span], Results], columns: Sequence[str]) -> Iterator[str]:
    line = _Line()
    writer = csv.writer(line)
    writer.writerow(["start_time", "end_time", *columns])
    yield line.text
    while span.start < span.end:
        for bucket in render_page(span, results_of(span))["data"]:
            moments = [datetime.fromtimestamp(bucket[name], UTC).isoformat() for name in ("start_time", "end_time")]
            for result in bucket["results"]:
                writer.writerow([*moments, *(_cell(result[name]) for name in columns)])
                yield line.text
        span = replace(span, start=span.stop)


def _cell(value: Any) -> Any:
    return value["value"] if isinstance(value, dict) else value
