"""Held-out rows and what two models made of them."""

from collections.abc import Iterable
from typing import Any

from finetuning.figures import Summary
from finetuning.metrics import Evaluation
from finetuning.predictions import EvaluationRow, Prediction
from inference_workers.protocol import ModelAnswer

LABELS = ("negative", "neutral", "positive")


def prediction(
    line: int,
    reference: str,
    base: str | None,
    tuned: str | None,
    *,
    losses: tuple[float, float] | None = None,
    tokens: int = 4,
    **options: Any,
) -> Prediction:
    """A row; ``options`` are those of :class:`EvaluationRow`."""
    row = EvaluationRow(line=line, prompt=[{"role": "user", "content": f"row {line}"}], reference=reference, **options)
    before, after = losses or (None, None)
    return Prediction(
        row=row,
        base=ModelAnswer(text=base, loss=before, tokens=tokens if losses else 0),
        tuned=ModelAnswer(text=tuned, loss=after, tokens=tokens if losses else 0),
    )


def classified(line: int, reference: str, base: str, tuned: str, **options: Any) -> Prediction:
    """A row whose answer is a label."""
    return prediction(line, reference, base, tuned, choices=LABELS, **options)


def evaluated(predictions: Iterable[Prediction], *, seed: int = 1) -> Summary:
    """The figures over all of them."""
    evaluation = Evaluation(seed=seed, resamples=200)
    for entry in predictions:
        evaluation.add(entry)
    return evaluation.summary()
