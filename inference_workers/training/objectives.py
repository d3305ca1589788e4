"""What is minimised, and the numbers shown beside it.

Both objectives return sums, so that a step can be computed in parts (passes, devices) and divided once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Some
from typing import Any, Protocol

import numpy as np
import torch

from .dataset import Dataset, Example
from .model import TrainedModel


class Objective(Protocol):
    """A loss over examples."""

    @property
    def sums(self) -> tuple[str, ...]:
        """The names of the sums."""

    def __call__(self, examples: Some[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """Of one pass: the sum of the losses (differentiable), and sums by name for :func:`means`."""


class SupervisedLoss:
    """Cross-entropy of the labels, weighted; nats a token."""

    sums = ("loss", "weight", "right", "of", "examples_right", "examples")

    def __init__(self, model: TrainedModel) -> None:
        self._model = model

    def __call__(self, examples: Some[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """One pass."""
        answers = self._model.answers([example.sequences[0] for example in examples])
        loss = -(answers.log_probs * answers.of.weights).sum()
        wrong = answers.by_sequence((~answers.right & (answers.of.weights > 0)).float())
        return loss, {
            "loss": loss.item(),
            "weight": answers.of.weights.sum().item(),
            "right": (answers.right & (answers.of.weights > 0)).sum().item(),
            "of": (answers.of.weights > 0).sum().item(),
            "examples_right": (wrong == 0).sum().item(),
            "examples": len(examples),
        }


class PreferenceLoss:
    """Direct preference optimisation: -log sigmoid(beta * ((chosen - rejected) - (the same as it began))); nats a pair.

    Each term is a sum of log-probabilities over an answer's tokens. How the model began is asked once for each row and
    remembered. Source: Rafailov and others, "Direct Preference Optimization", 2023, equation 7.
    """

    sums = (*SupervisedLoss.sums, "margin")

    def __init__(self, model: TrainedModel, dataset: Dataset, beta: float) -> None:
        self._model, self._beta = model, beta
        self._began = np.full((len(dataset), 2), np.nan)

    def __call__(self, examples: Some[Example]) -> tuple[torch.Tensor, dict[str, float]]:
        """One pass over the pairs."""
        rows = [example.row for example in examples]
        began = torch.tensor(self._reference(examples, rows), dtype=torch.float32, device=self._model.device)
        gain = self._beta * (self._sums(examples) - began)
        margin = gain[:, 0] - gain[:, 1]
        loss = -torch.nn.functional.logsigmoid(margin).sum()
        right = (margin > 0).sum().item()
        return loss, {
            "loss": loss.item(),
            "weight": len(examples),
            "right": right,
            "of": len(examples),
            "margin": margin.sum().item(),
            "examples_right": right,
            "examples": len(examples),
        }

    def _sums(self, examples: Some[Example]) -> torch.Tensor:
        """(pairs, 2) log-probabilities of the chosen and the rejected answer."""
        answers = self._model.answers([sequence for example in examples for sequence in example.sequences])
        return answers.by_sequence(answers.log_probs).view(len(examples), 2)

    def _reference(self, examples: Some[Example], rows: list[int]) -> Any:
        if np.isnan(self._began[rows]).any():
            with self._model.as_it_began():
                self._began[rows] = self._sums(examples).cpu().numpy()
        return self._began[rows]


def means(sums: dict[str, float], prefix: str) -> dict[str, float]:
    """The numbers to show. ``token_accuracy`` of a pair is 1 where the chosen answer has gained more."""
    shown = {
        f"{prefix}_loss": _divided(sums["loss"], sums["weight"]),
        f"{prefix}_token_accuracy": _divided(sums["right"], sums["of"]),
        f"{prefix}_example_accuracy": _divided(sums["examples_right"], sums["examples"]),
    }
    if "margin" in sums:
        shown[f"{prefix}_reward_margin"] = _divided(sums["margin"], sums["of"])
    return shown


def _divided(total: float, count: float) -> float:
    return total / count if count else (0.0 if math.isfinite(total) else total)
