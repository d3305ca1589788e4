"""What an evaluation compares: held-out rows, and what the base and the tuned model made of each.

Two NDJSON files tell it. The rows are written with the prepared dataset and name their line of the customer's file;
the results come from a node, in the same order::

    {"line", "messages" | "prompt", "reference", "choices"?, "json_schema"?, "slice"?, ...}
    {"line", "base": {"text", "loss", "tokens", ...}, "tuned": {...}}    EvaluationResult of the protocol
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Any

import orjson

from inference_workers.protocol import EvaluationResult, MessageError, ModelAnswer, decode


class PredictionsError(ValueError):
    """The results are not those of the rows; the text says where they part."""


class Task(StrEnum):
    """What a row asks of a model, told from how it may be answered; decides which metrics can be measured."""

    CLASSIFICATION = "classification"
    """The answer is one of the row's ``choices``."""
    EXTRACTION = "extraction"
    """The answer is JSON of the row's ``json_schema``."""
    GENERATION = "generation"


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """A held-out row; ``line`` is its 1-based number in the customer's file."""

    line: int
    prompt: list[dict[str, Any]] | str
    """Messages of a conversation, or plain text."""
    reference: str
    choices: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    slice: str | None = None
    """Value of the metadata column by which metrics are also told apart."""

    @property
    def task(self) -> Task:
        """By how the row may be answered."""
        if self.choices:
            return Task.CLASSIFICATION
        return Task.GENERATION if self.json_schema is None else Task.EXTRACTION


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A row with both answers."""

    row: EvaluationRow
    base: ModelAnswer
    tuned: ModelAnswer

    @property
    def is_complete(self) -> bool:
        """Whether both models could be asked; only such rows are compared."""
        return self.base.text is not None and self.tuned.text is not None


def read_predictions(*, rows: Iterable[bytes], results: Iterable[bytes]) -> Iterator[Prediction]:
    """Join the lines of both files in constant memory; :class:`PredictionsError` where they disagree."""
    for number, (row_line, result_line) in enumerate(zip_longest(rows, results), start=1):
        if row_line is None:
            raise PredictionsError(f"There are more results than the {number - 1} rows")
        if result_line is None:
            raise PredictionsError(f"There are only {number - 1} results")
        row = _row(orjson.loads(row_line))
        yield _joined(row, result_line, number)


def _row(value: dict[str, Any]) -> EvaluationRow:
    """Rows are our own writing, so that they are not doubted."""
    return EvaluationRow(
        line=value["line"],
        prompt=value["messages"] if "messages" in value else value["prompt"],
        reference=value["reference"],
        choices=tuple(value.get("choices") or ()),
        json_schema=value.get("json_schema"),
        slice=value.get("slice"),
    )


def _joined(row: EvaluationRow, result_line: bytes, number: int) -> Prediction:
    try:
        result = decode(EvaluationResult, orjson.loads(result_line))
    except (orjson.JSONDecodeError, MessageError) as error:
        raise PredictionsError(f"Result {number}: {error}") from error
    if result.line != row.line:
        raise PredictionsError(f"Result {number} is of line {result.line}, its row of line {row.line}")
    return Prediction(row=row, base=result.base, tuned=result.tuned)
