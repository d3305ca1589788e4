"""Usage in the published schema."""

from collections.abc import Mapping

from common.contract import Content, Contract, Query, bucket_listing, list_query, span_query
from common.shapes import Schema, Shape, boolean, constant, count, nullable, one_of, text
from metering.answers import FORMATS
from metering.buckets import LIMITS

COMPLETION_GROUPS = ("project_id", "user_id", "api_key_id", "model", "batch")
EMBEDDING_GROUPS = ("project_id", "user_id", "api_key_id", "model")

GROUPS: Mapping[str, Schema] = {
    "project_id": nullable(text("null unless it was grouped by.")),
    "user_id": nullable(text("null unless it was grouped by, and where the key belongs to nobody.")),
    "api_key_id": nullable(text("null unless it was grouped by.")),
    "model": nullable(text("null unless it was grouped by.")),
    "batch": nullable(boolean("null unless it was grouped by.")),
}

COMPLETIONS = Shape(
    name="CompletionsUsage",
    about="Tokens of chats and completions.",
    fields={
        "object": constant("organization.usage.completions.result"),
        **{name: GROUPS[name] for name in COMPLETION_GROUPS},
        "num_model_requests": count(),
        "input_tokens": count(),
        "input_cached_tokens": count("Those of them that were read from the prefix cache."),
        "input_uncached_tokens": count(),
        "output_tokens": count(),
    },
)
EMBEDDINGS = Shape(
    name="EmbeddingsUsage",
    about="Tokens of embeddings.",
    fields={
        "object": constant("organization.usage.embeddings.result"),
        **{name: GROUPS[name] for name in EMBEDDING_GROUPS},
        "num_model_requests": count(),
        "input_tokens": count(),
    },
)
COMPLETION_COLUMNS = tuple(name for name in COMPLETIONS.fields if name != "object")
EMBEDDING_COLUMNS = tuple(name for name in EMBEDDINGS.fields if name != "object")
FORMAT = Query(
    name="format",
    schema=one_of(FORMATS),
    about="`csv` for a file of all pages with a line for each result; `json` unless it is given.",
)
CSV = Content(media_type="text/csv", about="A line of names, and a line for each result of each bucket.")


def _query(groups: tuple[str, ...]) -> tuple[Query, ...]:
    return (
        *span_query(LIMITS),
        list_query("group_by", "What to count apart.", items=one_of(groups)),
        list_query("project_ids", "Of these projects alone."),
        list_query("user_ids", "Of these people's keys alone."),
        list_query("api_key_ids", "Of these keys alone."),
        list_query("models", "Of these models alone."),
        Query(name="batch", schema=boolean(), about="Of batches alone, or of all but batches."),
        FORMAT,
    )


LIST_COMPLETIONS = Contract(
    summary="Count tokens of completions",
    query=_query(COMPLETION_GROUPS),
    answer=bucket_listing(COMPLETIONS),
    contents=(CSV,),
)
LIST_EMBEDDINGS = Contract(
    summary="Count tokens of embeddings",
    query=_query(EMBEDDING_GROUPS),
    answer=bucket_listing(EMBEDDINGS),
    contents=(CSV,),
)
