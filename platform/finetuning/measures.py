"""Families of metrics. Each turns an answer into a few numbers whose sums over rows give its metrics.

That metrics follow from sums lets rows stream through once, in memory that does not grow with them: for the whole,
for each slice, and for each resample of the bootstrap (:mod:`finetuning.metrics`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetuning.predictions import EvaluationRow, Task
from finetuning.structure import MISSING, fields_of, follows_schema, parse_json, same
from finetuning.text_scores import corpus_bleu, score_text
from inference_workers.protocol import ModelAnswer

MAX_CLASSES = 100
"""Beyond so many labels only accuracy is measured: a confusion matrix of more is nothing to read."""
MAX_FIELDS = 100
"""Fields with an accuracy of their own; others count in ``field_accuracy``."""
MAX_EXPONENT = 100.0
"""A perplexity beyond e^100 is not worth more digits, and infinity is no JSON."""

Key = TypeVar("Key")
Sums = NDArray[np.float64]
"""Of statistics, element by element."""


class Measure(ABC):
    """One family; the numbers of a later row may be more than those of an earlier one, never in another order."""

    name: ClassVar[str]

    @abstractmethod
    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """The answer's numbers; None where the family has nothing to say of it."""

    @abstractmethod
    def values(self, sums: Sums) -> dict[str, float]:
        """The metrics that follow from the sums over some rows, those that are defined."""


class Places(Generic[Key]):
    """Numbers things in the order in which they come, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[Key, int] = {}
        self.is_exceeded = False

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._places)

    def of(self, key: Key) -> int | None:
        """The place of a thing; None when it came after the limit."""
        if key not in self._places:
            if len(self._places) >= self._limit:
                self.is_exceeded = True
                return None
            self._places[key] = len(self._places)
        return self._places[key]


class LossMeasure(Measure):
    """Cross-entropy and perplexity of the reference, each token counting the same."""

    name = "loss"

    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """Negative log-likelihood and tokens."""
        if answer.loss is None or not answer.tokens:
            return None
        return answer.loss * answer.tokens, answer.tokens

    def values(self, sums: Sums) -> dict[str, float]:
        """In nats per token, and its exponential."""
        loss, tokens = sums
        if not tokens:
            return {}
        entropy = float(loss / tokens)
        return {"cross_entropy": entropy, "perplexity": math.exp(min(entropy, MAX_EXPONENT))}


class MatchMeasure(Measure):
    """Answers that are the reference, surrounding white space aside; as JSON values where JSON is asked for."""

    name = "match"

    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """Whether it matches, and one."""
        text = answer.text or ""
        matches = text.strip() == row.reference.strip()
        if row.task is Task.EXTRACTION and not matches:
            value, wanted = parse_json(text), parse_json(row.reference)
            matches = value is not MISSING and same(value, wanted)
        return float(matches), 1.0

    def values(self, sums: Sums) -> dict[str, float]:
        """A part of the rows."""
        hits, rows = sums
        return {"exact_match": float(hits / rows)} if rows else {}


class ClassMeasure(Measure):
    """Accuracy, and precision, recall and F1 per class, as macro and as weighted mean.

    Means are over the classes that occur, in references or answers; what has no denominator is 0 (both as
    scikit-learn's defaults). An answer that is no label is wrong, and of no class.
    """

    name = "classes"

    def __init__(self) -> None:
        self.labels: Places[str] = Places(MAX_CLASSES)

    def pair(self, row: EvaluationRow, answer: ModelAnswer) -> tuple[str, str | None]:
        """The row's label and the label that was answered, None for anything else."""
        text = (answer.text or "").strip()
        return row.reference.strip(), text if text in row.choices else None

    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """Hit, one, then of each label: hits, answers, references."""
        if row.task is not Task.CLASSIFICATION:
            return None
        for choice in row.choices:
            self.labels.of(choice)
        label, answered = self.pair(row, answer)
        places = self.labels.of(label), None if answered is None else self.labels.of(answered)
        numbers = [0.0] * (2 + 3 * len(self.labels))
        hit = float(label == answered)
        numbers[:2] = hit, 1.0
        for place, counts in zip(places, ((hit, 0.0, 1.0), (0.0, 1.0, 0.0)), strict=True):
            if place is not None:
                for offset, count in enumerate(counts, start=2 + 3 * place):
                    numbers[offset] += count
        return numbers

    def values(self, sums: Sums) -> dict[str, float]:
        """Accuracy alone where there are too many classes."""
        hits, rows = sums[:2]
        if not rows:
            return {}
        accuracy = {"accuracy": float(hits / rows)}
        if self.labels.is_exceeded:
            return accuracy
        counts = self.counts(sums)
        present = [(scores_of(*three), three[2]) for three in counts if three[1] or three[2]]
        macro, weighted = ([0.0] * 3, [0.0] * 3)
        for scores, support in present:
            for position, score in enumerate(scores):
                macro[position] += score / len(present)
                weighted[position] += score * support / rows
        names = ("precision", "recall", "f1")
        return (
            accuracy
            | {f"{name}_macro": score for name, score in zip(names, macro, strict=True)}
            | {f"{name}_weighted": score for name, score in zip(names, weighted, strict=True)}
        )

    def counts(self, sums: Sums) -> list[tuple[float, float, float]]:
        """Hits, answers and references of each label."""
        numbers = _padded(sums[2:], 3 * len(self.labels))
        return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))


class FieldMeasure(Measure):
    """JSON answers: those that follow their schema, and the fields that have the reference's value.

    A field of the schema's objects that both lack is right, too: that there is nothing to extract is an answer.
    """

    name = "fields"

    def __init__(self) -> None:
        self.fields: Places[str] = Places(MAX_FIELDS)

    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """Valid, one, fields right, fields, then of each field: right, one."""
        if row.json_schema is None:
            return None
        value, wanted = parse_json(answer.text or ""), parse_json(row.reference)
        found, expected = fields_of(value), fields_of(wanted)
        right = {field: field in found and same(found[field], entry) for field, entry in expected.items()}
        for field in schema_fields(row.json_schema):
            if field not in right and not any(known.startswith(f"{field}/") for known in right):
                right[field] = value is not MISSING and field not in found
        places = {field: self.fields.of(field) for field in right}
        numbers = [0.0] * (4 + 2 * len(self.fields))
        valid = float(follows_schema(value=value, schema=row.json_schema))
        numbers[:4] = valid, 1.0, float(sum(right.values())), float(len(right))
        for field, place in places.items():
            if place is not None:
                numbers[4 + 2 * place : 6 + 2 * place] = float(right[field]), 1.0
        return numbers

    def values(self, sums: Sums) -> dict[str, float]:
        """Parts of the rows, and of all their fields."""
        valid, rows, right, fields = sums[:4]
        metrics = {"json_validity": float(valid / rows)} if rows else {}
        return metrics | ({"field_accuracy": float(right / fields)} if fields else {})

    def counts(self, sums: Sums) -> list[tuple[float, float]]:
        """Right and all, of each field."""
        numbers = _padded(sums[4:], 2 * len(self.fields))
        return list(zip(numbers[::2], numbers[1::2], strict=True))


class TextMeasure(Measure):
    """How much free text resembles the reference: mean ROUGE and chrF over rows, and the BLEU of all."""

    name = "text"

    def statistics(self, row: EvaluationRow, answer: ModelAnswer) -> Sequence[float] | None:
        """One, the scores, BLEU's counts."""
        if row.task is not Task.GENERATION:
            return None
        scores = score_text(text=answer.text or "", reference=row.reference)
        return 1.0, scores.rouge_1, scores.rouge_2, scores.rouge_l, scores.chrf, *scores.bleu_counts

    def values(self, sums: Sums) -> dict[str, float]:
        """Parts of 1."""
        rows, *scores = sums[:5]
        if not rows:
            return {}
        means = zip(("rouge_1", "rouge_2", "rouge_l", "chrf"), scores, strict=True)
        return {name: float(score / rows) for name, score in means} | {"bleu": corpus_bleu(sums[5:])}


def scores_of(hits: float, answers: float, references: float) -> tuple[float, float, float]:
    """Precision, recall and F1 of a class."""
    return (
        hits / answers if answers else 0.0,
        hits / references if references else 0.0,
        2 * hits / (answers + references) if answers + references else 0.0,
    )


def schema_fields(schema: dict[str, object], path: str = "", depth: int = 8) -> list[str]:
    """JSON pointers of the leaves that a schema names under ``properties``."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties or not depth:
        return [path] if path else []
    pointers = []
    for name, entry in properties.items():
        pointer = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        pointers += schema_fields(entry, pointer, depth - 1) if isinstance(entry, dict) else [pointer]
    return pointers


def _padded(sums: Sums, length: int) -> list[float]:
    """With a zero for everything that has not been summed yet."""
    return [*map(float, sums), *[0.0] * (length - len(sums))]
