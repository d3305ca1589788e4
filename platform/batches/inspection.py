"""The report on an input file, before any batch is made of it: the lines are held to what validation holds them to."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from django.conf import settings

from batches.quotes import ModelQuote
from batches.requests import ENDPOINTS, LineError, LineRequest
from batches.scan import Found, line_rules, scan
from batches.services import WINDOWS
from common.errors import HoneError
from common.storage import open_blob
from files.inspection import Inspector, Notes, RowProblem
from files.lines import parse_line, read_lines
from files.models import FileReport, StoredFile
from files.similarity import SIMILAR, RowIndex, open_row_index
from files.statistics import Distribution, LikeLines, Longest
from fleet.file_reports import queue_report
from metering.services import Quantities
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope

FIXES = {
    "invalid_json_line": "Write one complete JSON object on the line",
    "invalid_line": 'Write {"custom_id": "...", "method": "POST", "url": "...", "body": {...}}',
    "line_too_large": "Split the request into smaller ones",
    "duplicate_custom_id": "Give each line a custom_id of its own",
    "invalid_method": 'Write "method": "POST"',
    "invalid_url": "Keep lines for different endpoints in different files",
    "stream_not_allowed": "Leave out 'stream'",
    "unknown_parameter": "Leave the parameter out, or correct its name",
    "model_not_found": "Name a model that GET /v1/models lists",
    "endpoint_not_supported": "Choose a model that serves the endpoint",
    "context_length_exceeded": "Shorten the prompt, or lower max_tokens",
    "missing_required_parameter": "Add the parameter",
    "invalid_type": "Write a value of the type that the message names",
    "invalid_value": "Write a value that the message allows",
}
"""What to do about the lines' codes."""
_OPTIONS: dict[str, Mapping[str, object]] = {"endpoint": ENDPOINTS, "completion_window": WINDOWS}


class BatchInputInspector(Inspector):
    """Checks lines, and says what they would cost."""

    purpose = StoredFile.Purpose.BATCH

    def check_options(self, *, project: Project, key: ApiKey, options: Mapping[str, str]) -> None:
        """``endpoint``, else the one that the first line names, and ``completion_window``, else 24h."""
        for name, value in options.items():
            if name not in _OPTIONS:
                raise HoneError("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)
            if value not in _OPTIONS[name]:
                known = ", ".join(sorted(_OPTIONS[name]))
                raise HoneError("invalid_value", f"'{name}' must be one of {known}", param=name)

    def queue(self, report: FileReport) -> None:
        """As a lease of the control plane."""
        queue_report(report)

    def inspect(self, report: FileReport, notes: Notes, progress: Callable[[int], None]) -> dict[str, Any]:
        """One pass."""
        endpoint = report.options.get("endpoint") or _first_url(report.file)
        window = report.options.get("completion_window", "24h")
        with tenant_scope(report.organization_id):
            rules = line_rules(key=report.requested_by, endpoint=endpoint, completion_window=window)
        with open_row_index() as index:
            survey = _Survey(index)
            for found in scan(storage_key=report.file.storage_key, rules=rules):
                progress(found.line.offset + found.line.length)
                raw = found.line.data or b""
                notes.search(raw, line=found.line.number)
                match found.outcome:
                    case LineRequest() as request:
                        notes.good_row()
                        survey.add(found, request)
                    case LineError() as error:
                        notes.bad_row([_problem(found, error)], raw=raw)
            return {
                "endpoint": endpoint,
                "completion_window": window,
                **survey.describe(lambda: progress(report.file.bytes)),
            }


class _Survey:
    """What the good lines are like, together."""

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._tokens = Distribution()
        self._longest = Longest()
        self._exact = LikeLines()
        self._models: dict[str, ModelQuote] = {}

    def add(self, found: Found, request: LineRequest) -> None:
        """One line."""
        line = found.line.number
        self._tokens.add(request.input_tokens)
        self._longest.add(request.input_tokens, line=line)
        quote = self._models.setdefault(request.offer.model.name, ModelQuote(request.offer.price))
        quote.quantities += Quantities(
            requests=1, input_tokens=request.input_tokens, output_tokens=request.output_tokens
        )
        quote.bound_nanos += request.bound_nanos
        body = parse_line(found.line.data or b"")["body"]
        content = orjson.dumps(body)
        first = self._index.first_line("row", content, line=line)
        if first is not None:
            self._exact.add(line, first)
        else:
            self._index.add_text(content.decode(), line=line)

    def describe(self, beat: Callable[[], None]) -> dict[str, Any]:
        """As JSON. Tokens are estimates, the bound is none."""
        near = LikeLines()
        for pair in self._index.pairs(beat):
            near.add(pair.line, pair.like, similarity=round(pair.similarity, 2))
        return {
            "statistics": {"input_tokens": self._tokens.describe(), "longest": self._longest.describe("tokens")},
            "duplicates": {
                "exact": self._exact.describe(),
                "near": {"threshold": SIMILAR, "is_complete": not self._index.is_full, **near.describe()},
            },
            "quote": {
                "cost_nanos": sum(model.cost_nanos for model in self._models.values()),
                "max_cost_nanos": sum(model.bound_nanos for model in self._models.values()),
                "models": [
                    {
                        "model": name,
                        "requests": model.quantities.requests,
                        "input_tokens": model.quantities.input_tokens,
                        "output_tokens": model.quantities.output_tokens,
                        "cost_nanos": model.cost_nanos,
                        "max_cost_nanos": model.bound_nanos,
                    }
                    for name, model in sorted(self._models.items())
                ],
            },
        }


def _first_url(file: StoredFile) -> str:
    """The endpoint of the first line that names one; most files have one in all lines."""
    with open_blob(file.storage_key) as stored:
        for line in read_lines(stored, max_bytes=settings.BATCH_LINE_MAX_BYTES):
            try:
                value = parse_line(line.data or b"null")
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict) and value.get("url") in ENDPOINTS:
                return str(value["url"])
    return "/v1/chat/completions"


def _problem(found: Found, error: LineError) -> RowProblem:
    parts = re.findall(r"[^.\[\]]+", error.param or "")
    return RowProblem(
        line=found.line.number,
        pointer="".join(f"/{part}" for part in parts),
        code=error.code,
        message=error.message,
        fix=FIXES[error.code],
    )
