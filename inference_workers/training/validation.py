"""Losses on rows that are not trained."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from .dataset import Dataset
from .devices import Team
from .model import TrainedModel
from .objectives import Objective, means

_ROWS_READ_AT_ONCE = 512


class Validation:
    """The validation set, whole or a part that is always the same."""

    def __init__(self, dataset: Dataset, objective: Objective, model: TrainedModel, team: Team, *, subset: int) -> None:
        self._dataset, self._objective, self._model, self._team = dataset, objective, model, team
        self._all = np.argsort(dataset.tokens, kind="stable")
        self._some = self._all[np.linspace(0, len(dataset) - 1, min(subset, len(dataset))).round().astype(np.int64)]

    def on_all(self) -> dict[str, float]:
        """Means over every row."""
        return self._means(self._all)

    def on_some(self) -> dict[str, float]:
        """Means over the part: rows of all lengths."""
        return self._means(self._some)

    def _means(self, rows: np.ndarray) -> dict[str, float]:
        self._model.train(False)
        sums: Counter[str] = Counter()
        with torch.no_grad():
            for start in range(0, len(rows), _ROWS_READ_AT_ONCE):
                part = rows[start : start + _ROWS_READ_AT_ONCE]
                for group in self._team.passes(self._dataset, part, self._model):
                    sums.update(self._objective(group)[1])
        return means(self._team.total(sums, self._objective.sums), "valid")
