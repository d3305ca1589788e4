"""What a row is to the engine."""

from typing import Any

import orjson
import pytest

from inference_workers.protocol import RowError, RowResult, WorkRow
from inference_workers.rows import row_of, tokens_of


@pytest.mark.parametrize(
    ("body", "requests"),
    [
        ({"messages": [{"role": "user", "content": "hello"}]}, 1),
        ({"messages": [], "n": 4}, 4),
        ({"prompt": "hello"}, 1),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"input": [[1, 2], [3]]}, 2),
        ({"input": []}, 1),
        ({"prompt": "x", "n": "many"}, 1),
    ],
)
def test_a_row_counts_as_the_requests_the_engine_makes_of_it(body: dict[str, Any], requests: int) -> None:
    assert row_of("lease_1", WorkRow(line=1, body=body), {}, endpoint="/v1/completions").requests == requests


def test_a_row_is_sent_as_it_came_with_what_this_engine_gets() -> None:
    work = WorkRow(line=3, body={"model": "m", "priority": -5})
    row = row_of("lease_1", work, {"priority": 10}, endpoint="/v1/completions")
    assert (row.line, orjson.loads(row.body)) == (3, {"model": "m", "priority": 10})


@pytest.mark.parametrize(
    ("result", "tokens"),
    [
        (RowResult(line=1, status=200, body={"usage": {"prompt_tokens": 7, "completion_tokens": 5}}), 12),
        (RowResult(line=1, status=200, body={"usage": {"prompt_tokens": 7, "total_tokens": 7}}), 7),
        (RowResult(line=1, status=200, body={"usage": None}), 0),
        (RowResult(line=1, status=400, body={"error": {}}), 0),
        (RowResult(line=1, error=RowError(code="request_timeout", message="late")), 0),
    ],
)
def test_tokens_are_the_engines_own_count(result: RowResult, tokens: int) -> None:
    assert tokens_of(result) == tokens
