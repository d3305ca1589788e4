"""Which rows make up which step: a function of the seed and the step alone, so a restarted run needs no memory."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from .dataset import Dataset, Example

_BATCHES_IN_A_POOL = 50
"""Grouping by length sorts the rows of so many batches."""


class StepOrder:
    """Rows by step, from 0; each epoch shuffles anew."""

    def __init__(
        self, dataset: Dataset, *, seed: int, batch_size: int, n_epochs: int, group_by_length: bool = False
    ) -> None:
        self._lengths = dataset.tokens if group_by_length else None
        self._rows, self._seed, self._batch_size = len(dataset), seed, batch_size
        self.steps_per_epoch = -(-len(dataset) // batch_size)
        self.total_steps = self.steps_per_epoch * n_epochs
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def rows(self, step: int) -> np.ndarray:
        """The rows that step learns from."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self._seed, epoch])
        rows = random.permutation(self._rows)
        if self._lengths is None:
            return _cut(rows, self._batch_size)
        pools = _cut(rows, self._batch_size * _BATCHES_IN_A_POOL)
        ordered = np.concatenate([pool[np.argsort(self._lengths[pool], kind="stable")] for pool in pools])
        batches = _cut(ordered, self._batch_size)
        return [batches[place] for place in random.permutation(len(batches))]


def spread_steps(total_steps: int, count: int) -> set[int]:
    """``count`` steps (or all, when there are fewer) evenly spread over the run; the last is its end."""
    return {round(total_steps * part / count) for part in range(1, count + 1)} - {0}


def passes(examples: Iterable[Example], *, at_least: int, most_tokens: int, packing: bool) -> list[list[Example]]:
    """Split a step into what the device computes at once, about even in tokens that must be computed.

    Packed, examples that begin alike come together and a beginning counts once; otherwise similar lengths come
    together. A single example of more than ``most_tokens`` is a pass of its own.
    """
    ordered = sorted(examples, key=_ids if packing else _tokens)
    fresh = [_tokens(example) for example in ordered]
    if packing:
        fresh = [_fresh_tokens(*pair) for pair in zip([None, *ordered], ordered, strict=False)]
    share = sum(fresh) / max(at_least, -(-sum(fresh) // most_tokens), 1)
    groups: list[list[Example]] = []
    tokens = 0
    for example, count in zip(ordered, fresh, strict=True):
        if not groups or tokens + count / 2 > share:
            groups.append([])
            tokens = 0
        groups[-1].append(example)
        tokens += count
    return groups


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _tokens(example: Example) -> int:
    return sum(len(sequence.ids) for sequence in example.sequences)


def _ids(example: Example) -> list[list[int]]:
    return [sequence.ids for sequence in example.sequences]


def _fresh_tokens(before: Example | None, example: Example) -> int:
    """Tokens of a prefix tree that the example adds after the one before it in order."""
    chain = [*([before.sequences[0]] if before else []), *example.sequences]
    shared = sum(_common(left.ids, right.ids) for left, right in pairwise(chain))
    return _tokens(example) - shared


def _common(left: list[int], right: list[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(left), len(right))
    return next((place for place in range(shorter) if left[place] != right[place]), shorter)
