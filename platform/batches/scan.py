"""One pass over an input file: every line is checked, at constant memory. Validation and quotes both read like this."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from django.conf import settings

from batches.requests import LineError, LineRequest, LineRules, Offer, parse_request, read_custom_id
from catalog.models import Price
from catalog.selectors import current_prices, served_models, tuned_prices
from catalog.tokens import token_counter
from common.storage import open_blob
from files.lines import FileError, Line, read_lines
from tenants.models import ApiKey


@dataclass(frozen=True)
class Found:
    """A line and what was found out about it: a request that can run, or why it cannot."""

    line: Line
    custom_id: str | None
    outcome: LineRequest | LineError


def line_rules(
    *, key: ApiKey, endpoint: str, completion_window: str, aliases: Mapping[str, str] | None = None
) -> LineRules:
    """What lines are held to that this key sends for this endpoint and window. Call inside the scope.

    ``aliases`` are what the project's aliases stood for when the batch was created, instead of now.
    """
    prices = current_prices(kind=Price.Kind.BATCH, completion_window=completion_window)
    tuned = tuned_prices(kind=Price.Kind.BATCH, completion_window=completion_window)
    offers = {
        name: Offer(served, price)
        for name, served in served_models(key=key, aliases=aliases).items()
        if (price := (tuned if served.adapter else prices).get(served.base.id)) is not None
    }
    return LineRules(endpoint=endpoint, find_offer=offers.get, counter_of=token_counter)


def scan(*, storage_key: str, rules: LineRules, only: frozenset[int] | None = None) -> Iterator[Found]:
    """Every line, or those with the numbers in ``only``; raises :class:`FileError` for what is no batch input."""
    seen: set[bytes] = set()
    count = 0
    with open_blob(storage_key) as file:
        for line in read_lines(file, max_bytes=settings.BATCH_LINE_MAX_BYTES):
            if only is not None and line.number not in only:
                continue
            count += 1
            if count > settings.BATCH_INPUT_MAX_ROWS:
                raise FileError(
                    "too_many_rows", f"A batch takes at most {settings.BATCH_INPUT_MAX_ROWS} requests; split the file"
                )
            custom_id = None
            outcome: LineRequest | LineError
            try:
                value = _parse(line)
                # Before all else, so that a line that is wrong otherwise is still named by its id.
                custom_id = read_custom_id(value)
                _note(custom_id, seen)
                outcome = rules.check(value, size=line.length)
            except LineError as error:
                outcome = error
            yield Found(line, custom_id, outcome)
    if count == 0:
        raise FileError("empty_file", "The file holds no request")


def _parse(line: Line) -> dict[str, Any]:
    if line.data is None:
        raise LineError(
            "line_too_large", f"The line has {line.length} bytes; at most {settings.BATCH_LINE_MAX_BYTES} are allowed"
        )
    return parse_request(line.data)


def _note(custom_id: str, seen: set[bytes]) -> None:
    # Digests, not ids: sixteen bytes each, however long the ids are.
    digest = blake2b(custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        raise LineError("duplicate_custom_id", "An earlier line has the same 'custom_id'", "custom_id")
    seen.add(digest)
