"""Rows and results of a node are joined line by line, and doubted."""

import json
from typing import Any

import pytest

from finetuning.predictions import PredictionsError, Task, read_predictions
from inference_workers.protocol import ModelAnswer

ROWS = [
    {
        "line": 3,
        "messages": [{"role": "user", "content": "a"}],
        "reference": "yes",
        "choices": ["yes", "no"],
        "ids": [1],
    },
    {"line": 5, "prompt": "b", "reference": "{}", "json_schema": {"type": "object"}, "slice": "zh"},
    {"line": 9, "prompt": "c", "reference": "free"},
]


def result(line: int, **base: Any) -> dict[str, Any]:
    return {"line": line, "base": {"text": "x", "loss": 1, "tokens": 2} | base, "tuned": {"text": "y"}}


RESULTS = [result(row["line"]) for row in ROWS]  # type: ignore[arg-type]  # lines are numbers


def lines(values: list[Any]) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


def test_rows_and_results_are_joined() -> None:
    first, second, third = read_predictions(rows=lines(ROWS), results=lines(RESULTS))
    assert (first.row.line, first.row.choices, first.row.task) == (3, ("yes", "no"), Task.CLASSIFICATION)
    assert (second.row.prompt, second.row.slice, second.row.task) == ("b", "zh", Task.EXTRACTION)
    assert (third.row.reference, third.row.task) == ("free", Task.GENERATION)
    assert (first.base, first.tuned) == (ModelAnswer(text="x", loss=1, tokens=2), ModelAnswer(text="y"))


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        (RESULTS[:2], "There are only 2 results"),
        ([*RESULTS, result(10)], "There are more results than the 3 rows"),
        ([RESULTS[1], RESULTS[0], RESULTS[2]], "Result 1 is of line 5, its row of line 3"),
        ([[], *RESULTS[1:]], "Result 1: EvaluationResult must be a JSON object, not list"),
        ([result(3, loss="1"), *RESULTS[1:]], "Result 1: ModelAnswer.loss must be a float, not str"),
        ([result(3, tokens=True), *RESULTS[1:]], "Result 1: ModelAnswer.tokens must be a int, not bool"),
        ([{"line": 3, "base": {"text": ""}}, *RESULTS[1:]], "Result 1: EvaluationResult.tuned is missing"),
    ],
)
def test_results_of_other_rows_are_refused(results: list[Any], reason: str) -> None:
    with pytest.raises(PredictionsError, match=f"^{reason}$"):
        list(read_predictions(rows=lines(ROWS), results=lines(results)))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(PredictionsError, match=r"^Result 2: unexpected end"):
        list(read_predictions(rows=lines(ROWS), results=[lines(RESULTS)[0], b'{"line": 5,', lines(RESULTS)[2]]))
