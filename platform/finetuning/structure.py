"""JSON answers: whether they follow their schema, and which of their fields are right."""

from functools import lru_cache
from typing import Any, NoReturn

import jsonschema_rs
import orjson

MAX_DEPTH = 8
"""An object further down is one field."""
MAX_PATTERN_BYTES = 1_000_000
"""Of a compiled pattern: schemas are the customers'."""

MISSING = object()
"""Of an answer that has no JSON value: nothing equals it but itself."""


def parse_json(text: str) -> Any:
    """The JSON value of an answer, :data:`MISSING` when it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return MISSING


def follows_schema(*, value: Any, schema: dict[str, Any]) -> bool:
    """Whether ``value`` is what the schema describes; nothing follows what is no schema."""
    validator = None if value is MISSING else _validator(orjson.dumps(schema))
    return validator is not None and validator.is_valid(value)


def fields_of(value: Any) -> dict[str, Any]:
    """The leaves of an object by their JSON pointers (RFC 6901); arrays are leaves. Nothing of any other value."""
    leaves: dict[str, Any] = {}
    if isinstance(value, dict):
        _collect(value, "", leaves, MAX_DEPTH)
    return leaves


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values: ``1`` is ``1.0``, but not ``true``; nothing equals what is nested beyond all sense."""
    try:
        return _equal(one, other)
    except RecursionError:
        return False


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _collect(value: dict[str, Any], path: str, leaves: dict[str, Any], depth: int) -> None:
    for name, entry in value.items():
        pointer = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if isinstance(entry, dict) and entry and depth > 1:
            _collect(entry, pointer, leaves, depth - 1)
        else:
            leaves[pointer] = entry


@lru_cache(maxsize=16)
def _validator(schema: bytes) -> jsonschema_rs.Draft202012Validator | None:
    # Patterns of this kind take linear time whatever the text; one that needs more makes the schema none of ours.
    options = jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES)
    try:
        return jsonschema_rs.Draft202012Validator(orjson.loads(schema), retriever=_refuse, pattern_options=options)
    except ValueError:
        return None


def _refuse(uri: str) -> NoReturn:
    """A schema that refers to another place would have us fetch what a customer names."""
    raise ValueError(f"{uri} is not fetched")
