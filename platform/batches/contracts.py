"""Batches in the published schema: the objects that answer, and what each route takes."""

from batches.models import Batch, Row
from batches.requests import ENDPOINTS
from batches.services import WINDOWS
from batches.wire import CreateBatchSerializer, QuoteSerializer
from common.contract import Contract, Query, cursor_query, limit_query, listing, page_query
from common.errors import CODES
from common.fields import CapSerializer
from common.http import NoParametersSerializer
from common.shapes import (
    Shape,
    anything,
    array,
    boolean,
    constant,
    count,
    dollars,
    integer,
    mapping,
    moment,
    nullable,
    one_of,
    text,
    wire_id,
)
from files.models import StoredFile

MAX_RESULTS = 1_000

_NANOS = "In nano-dollars."
USAGE = Shape(
    name="BatchUsage",
    about="Tokens.",
    fields={
        "input_tokens": count(),
        "input_tokens_details": Shape(
            name="BatchInputTokens", about="Of which:", fields={"cached_tokens": count("Read from the prefix cache.")}
        ),
        "output_tokens": count(),
        "output_tokens_details": Shape(
            name="BatchOutputTokens", about="Of which:", fields={"reasoning_tokens": count()}
        ),
        "total_tokens": count(),
    },
)
ERRORS = Shape(
    name="BatchErrors",
    about="What is wrong with the input.",
    fields={
        "object": constant("list"),
        "data": array(
            Shape(
                name="BatchError",
                about="One complaint.",
                fields={
                    "code": one_of(CODES),
                    "message": text(),
                    "param": nullable(text()),
                    "line": nullable(integer("Of the input file; null is about all of it.", least=1)),
                },
            )
        ),
    },
)
_FILE_ID = wire_id(StoredFile.ID_PREFIX)
_TIMESTAMPS = (
    "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
    "cancelled_at",
)  # fmt: skip
BATCH = Shape(
    name="Batch",
    about="Many requests, done together. What follows `metadata` is Hone's.",
    fields={
        "id": wire_id(Batch.ID_PREFIX),
        "object": constant("batch"),
        "endpoint": one_of(sorted(ENDPOINTS)),
        "model": nullable(text("When all requests name the same.")),
        "errors": nullable(ERRORS),
        "input_file_id": _FILE_ID,
        "completion_window": one_of(WINDOWS),
        "status": one_of(Batch.Status.values),
        "output_file_id": nullable(_FILE_ID),
        "error_file_id": nullable(_FILE_ID),
        "created_at": moment(),
        **{name: nullable(moment()) for name in _TIMESTAMPS},
        "request_counts": Shape(
            name="BatchRequestCounts",
            about="`failed` counts expired and cancelled requests, too.",
            fields={"total": count(), "completed": count(), "failed": count()},
        ),
        "usage": USAGE,
        "metadata": nullable(mapping(text(most=512))),
        "on_invalid": one_of(Batch.OnInvalid.values, "What a bad line does: fail the batch, or be skipped."),
        "retry_of": nullable(wire_id(Batch.ID_PREFIX, "The batch whose rows it runs again.")),
        "cost_nanos": count(f"What it has cost so far. {_NANOS}"),
        "max_cost": nullable(dollars()),
        "paused": boolean(),
        "waiting_reason": nullable(
            one_of(
                ["paused", "max_cost", "insufficient_quota", "no_node", "retrying", "queued", "held"],
                "Why it does not run: `no_node` serves the model, `held` for an operator.",
            )
        ),
        "queue_position": nullable(integer("Its turn; null unless it is queued.", least=1)),
        "estimated_finish_at": nullable(moment()),
        "held_reason": nullable(text()),
    },
)
RESULT = Shape(
    name="BatchResult",
    about="A row as it is now.",
    fields={
        "id": text(pattern=r"^batch_req_[0-9a-f]{40}$"),
        "object": constant("batch.result"),
        "line": integer("Of the input file.", least=1),
        "custom_id": nullable(text("null where the line has none.")),
        "status": one_of([*Row.State.values, "in_progress"]),
        "attempts": count("How often it was handed to a node."),
        "usage": USAGE,
        "cost_nanos": count(_NANOS),
        "response": nullable(
            Shape(
                name="BatchResponse",
                about="As in the output file.",
                fields={
                    "status_code": integer(),
                    "request_id": text(),
                    "body": anything("What the endpoint answers, or its error."),
                },
            )
        ),
        "error": nullable(
            Shape(
                name="BatchRowError",
                about="As in the error file: why the row did not run.",
                fields={"code": one_of(CODES), "message": text()},
                optional={"param": nullable(text())},
            )
        ),
    },
)
QUOTE = Shape(
    name="BatchQuote",
    about=f"What a batch would cost: expected, and at most. {_NANOS}",
    fields={
        "object": constant("batch.quote"),
        "request_counts": Shape(
            name="BatchQuoteCounts", about="Lines.", fields={"total": count(), "valid": count(), "invalid": count()}
        ),
        "invalid_codes": mapping(integer(least=1), "Bad lines by code."),
        "errors": ERRORS,
        "models": array(
            Shape(
                name="BatchQuoteModel",
                about="The part of one model.",
                fields={
                    "model": text(),
                    "requests": integer(least=1),
                    "estimated_input_tokens": count(),
                    "estimated_output_tokens": count(),
                    "input_nanos_per_token": count(),
                    "output_nanos_per_token": count(),
                    "estimated_cost_nanos": count(),
                    "max_cost_nanos": count(),
                },
            )
        ),
        "estimated_cost_nanos": count(),
        "max_cost_nanos": count("What is held when it starts."),
        "available_nanos": integer("What the organisation can spend."),
        "is_affordable": boolean(),
    },
)

CREATE_BATCH = Contract(
    summary="Create a batch",
    description="Of an uploaded file (`input_file_id`), or of `requests` that come with the call.",
    body=CreateBatchSerializer,
    creates=True,
    answer=BATCH,
    errors=("invalid_purpose", "conflict", "storage_quota_exceeded", "storage_full"),
)
LIST_BATCHES = Contract(
    summary="List the project's batches",
    query=(
        *page_query(Batch.ID_PREFIX),
        Query(name="status", schema=one_of(Batch.Status.values), about="Those in this state alone."),
        Query(name="model", schema=text(), about="Those of this model alone."),
        Query(name="metadata", schema=mapping(text()), about="Those with these pairs alone: `metadata[key]=value`."),
    ),
    answer=listing(BATCH),
)
RETRIEVE_BATCH = Contract(summary="Show a batch", answer=BATCH)
CANCEL_BATCH = Contract(
    summary="Cancel a batch", description="What has finished is kept.", answer=BATCH, errors=("conflict",)
)  # fmt: skip
PAUSE_BATCH = Contract(
    summary="Pause a batch",
    description="Nothing of it runs until it is resumed.",
    body=NoParametersSerializer,
    answer=BATCH,
    errors=("conflict",),
)
RESUME_BATCH = Contract(
    summary="Resume a batch",
    description="Perhaps with a higher `max_cost`.",
    body=CapSerializer,
    answer=BATCH,
    errors=("conflict", "insufficient_quota"),
)
RETRY_BATCH = Contract(
    summary="Run again what did not succeed",
    description="A batch of its own, of the rows that failed, expired or were cancelled.",
    body=CapSerializer,
    creates=True,
    answer=BATCH,
    errors=("conflict",),
)
QUOTE_BATCH = Contract(
    summary="Ask what a batch would cost",
    description="Its input is read as it would be validated; nothing is held or queued.",
    body=QuoteSerializer,
    answer=QUOTE,
    errors=("invalid_purpose", "empty_file", "invalid_encoding", "invalid_jsonl", "too_many_rows"),
)
LIST_RESULTS = Contract(
    summary="List a batch's rows, while it runs and afterwards",
    description="In the order of the input.",
    query=(
        limit_query(max_limit=MAX_RESULTS, default_limit=100),
        cursor_query("after", RESULT.fields["id"]),
        Query(name="status", schema=one_of(Row.State.values), about="Those in this state alone."),
    ),
    answer=listing(RESULT),
)
