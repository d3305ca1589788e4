"""The figures of an evaluation, as they are told: each metric of both models, and what was gained."""

from dataclasses import dataclass, field
from typing import Any, Literal

from finetuning.predictions import Task

CONFIDENCE = 0.95
DIGITS = 6
"""After the point, of every figure."""

Better = Literal["higher", "lower"]

METRICS: dict[str, Better] = {
    "accuracy": "higher",
    "precision_macro": "higher",
    "recall_macro": "higher",
    "f1_macro": "higher",
    "precision_weighted": "higher",
    "recall_weighted": "higher",
    "f1_weighted": "higher",
    "exact_match": "higher",
    "json_validity": "higher",
    "field_accuracy": "higher",
    "rouge_1": "higher",
    "rouge_2": "higher",
    "rouge_l": "higher",
    "chrf": "higher",
    "bleu": "higher",
    "cross_entropy": "lower",
    "perplexity": "lower",
}
"""Every metric there is, and which way it improves. Those that improve upwards lie between 0 and 1."""

HEADLINES: dict[Task, str] = {
    Task.CLASSIFICATION: "accuracy",
    Task.EXTRACTION: "field_accuracy",
    Task.GENERATION: "rouge_l",
}
"""The metric to look at first."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of both models over the same rows."""

    base: float
    tuned: float
    gain: float
    """Positive is better, whichever way the metric improves."""
    better: Better
    rows: int
    interval: tuple[float, float] | None = None
    """In which the gain lies with :data:`CONFIDENCE`; None for few rows and for parts of the whole."""


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One label; each triple is precision, recall, F1."""

    label: str
    rows: int
    base: tuple[float, float, float]
    tuned: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class FieldFigures:
    """One field of JSON answers, and the part of its rows in which it is right."""

    field: str
    rows: int
    base: float
    tuned: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Rows are the references' labels, columns the same labels and, last, answers that are none of them."""

    labels: list[str]
    base: list[list[int]]
    tuned: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class SliceFigures:
    """The metrics over the rows of one value of the metadata column."""

    value: str
    rows: int
    metrics: dict[str, Comparison]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that was measured."""

    rows: int
    skipped_rows: int
    """Rows that one of the models could not be asked about; no metric knows them."""
    headline: str | None
    metrics: dict[str, Comparison] = field(default_factory=dict)
    classes: list[ClassFigures] = field(default_factory=list)
    confusion: Confusion | None = None
    fields: list[FieldFigures] = field(default_factory=list)
    slices: list[SliceFigures] = field(default_factory=list)


def as_json(summary: Summary) -> dict[str, Any]:
    """As it is stored and sent: triples and pairs are named."""
    triple = ("precision", "recall", "f1")
    return {
        "rows": summary.rows,
        "skipped_rows": summary.skipped_rows,
        "headline": summary.headline,
        "metrics": _comparisons(summary.metrics),
        "classes": [
            {
                "label": of_class.label,
                "rows": of_class.rows,
                "base": dict(zip(triple, of_class.base, strict=True)),
                "tuned": dict(zip(triple, of_class.tuned, strict=True)),
            }
            for of_class in summary.classes
        ],
        "confusion": vars(summary.confusion) if summary.confusion else None,
        "fields": [dict(vars(of_field)) for of_field in summary.fields],
        "slices": [
            {"value": of_slice.value, "rows": of_slice.rows, "metrics": _comparisons(of_slice.metrics)}
            for of_slice in summary.slices
        ],
    }


def _comparisons(metrics: dict[str, Comparison]) -> dict[str, Any]:
    return {
        name: vars(metric) | {"interval": list(metric.interval) if metric.interval else None}
        for name, metric in metrics.items()
    }
