"""The prepared rows: token ids and which of them are trained, as NDJSON (the format is in the package's README).

Only where each row begins and how long it is stays in memory (24 bytes a row); the row itself is read when its turn
comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from .errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Tokens and what is learnt from them."""

    ids: list[int]
    labels: list[int]
    """Positions in ``ids`` (never 0) that the model shall predict from what stands before them."""
    weights: list[float]
    """One for each label."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row: a sequence, or the chosen and the rejected one of a pair."""

    row: int
    """Its place in the file, from 0."""
    sequences: tuple[Sequence, ...]


class Dataset:
    """The rows of one file, by number from 0."""

    def __init__(self, path: Path, *, method: str, max_seq_length: int, vocab_size: int) -> None:
        self._stream = path.open("rb")
        self._method, self._longest, self._vocab_size = method, max_seq_length, vocab_size
        digest = hashlib.sha256()
        offsets, tokens, weights = [0], [], []
        for number, line in enumerate(self._stream):
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
            example = self._parse(line, number)
            tokens.append(sum(len(sequence.ids) for sequence in example.sequences))
            weights.append(self.weight([example]))
        self.sha256 = digest.hexdigest()
        self._offsets = np.array(offsets, dtype=np.int64)
        self.tokens = np.array(tokens, dtype=np.int64)
        """Of each row: tokens that the model reads, those of both answers for a pair."""
        self.weights = np.array(weights, dtype=np.float64)
        """Of each row: what its loss counts in a step's mean; the sum of its labels' weights, 1 for a pair."""
        if not tokens:
            raise TrainingError("dataset_invalid", f"{path.name} holds no examples")
        if not self.weights.any():
            raise TrainingError("dataset_invalid", f"{path.name} trains no token: every label is masked or cut off")

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, rows: Iterable[int]) -> list[Example]:
        """The examples of those rows."""
        examples = []
        for row in rows:
            self._stream.seek(int(self._offsets[row]))
            examples.append(self._parse(self._stream.readline(), int(row)))
        return examples

    def weight(self, examples: Iterable[Example]) -> float:
        """What the loss of these examples counts in a mean."""
        if self._method == "dpo":
            return float(sum(1 for _ in examples))
        return float(sum(sum(sequence.weights) for example in examples for sequence in example.sequences))

    def _parse(self, line: bytes, row: int) -> Example:
        try:
            document = orjson.loads(line)
            sequences = _pair(document) if self._method == "dpo" else (_supervised(document),)
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError("dataset_invalid", f"row {row + 1} is not a prepared example: {error!r}") from error
        for sequence in sequences:
            self._check(sequence, row)
        return Example(row=row, sequences=sequences)

    def _check(self, sequence: Sequence, row: int) -> None:
        length = len(sequence.ids)
        if not 0 < length <= self._longest:
            raise TrainingError("dataset_invalid", f"row {row + 1} has {length} tokens, not 1 to {self._longest}")
        if not 0 <= min(sequence.ids) <= max(sequence.ids) < self._vocab_size:
            raise TrainingError("dataset_invalid", f"row {row + 1} has a token id outside 0..{self._vocab_size - 1}")
        if sequence.labels and not 0 < sequence.labels[0] <= sequence.labels[-1] < length:
            raise TrainingError("dataset_invalid", f"row {row + 1} trains positions outside 1..{length - 1}")


def _supervised(document: Any) -> Sequence:
    labels: list[int] = []
    weights: list[float] = []
    spans = document["trained"]
    for (start, end), weight in zip(spans, document.get("weights") or [1.0] * len(spans), strict=True):
        positions = range(max(start, 1), end)  # nothing stands before the first token to predict it from
        labels.extend(positions)
        weights.extend([float(weight)] * len(positions))
    return Sequence(ids=document["ids"], labels=labels, weights=weights)


def _pair(document: Any) -> tuple[Sequence, ...]:
    prompt = document["prompt"]
    sequences = []
    for answer in (document["chosen"], document["rejected"]):
        ids = prompt + answer
        labels = list(range(max(len(prompt), 1), len(ids)))
        sequences.append(Sequence(ids=ids, labels=labels, weights=[1.0] * len(labels)))
    return tuple(sequences)
