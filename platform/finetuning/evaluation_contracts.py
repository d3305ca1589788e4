"""Evaluations in the published schema."""

from common.contract import Contract, cursor_query, limit_query, listing
from common.shapes import (
    Schema,
    Shape,
    anything,
    array,
    boolean,
    constant,
    count,
    integer,
    mapping,
    moment,
    nullable,
    number,
    one_of,
    text,
    wire_id,
)
from finetuning.figures import METRICS
from finetuning.models import EvaluationReport, FineTuningJob

EXAMPLE_PREFIX = "evalex-"
MAX_EXAMPLES = 1_000

_PART = {"type": "number", "minimum": 0, "maximum": 1}
_COMPARISON = Shape(
    name="MetricComparison",
    about="A metric of both models over the same rows.",
    fields={
        "base": number(),
        "tuned": number(),
        "gain": number("Positive is better, whichever way the metric improves."),
        "better": one_of(["higher", "lower"]),
        "rows": count(),
        "interval": nullable(array(number(), "The gain lies between these two, at the confidence that is told.")),
    },
)
_CLASS_FIGURES = Shape(
    name="ClassFigures",
    about="How well one model finds a label.",
    fields={"precision": _PART, "recall": _PART, "f1": _PART},
)
_COUNTS = array(array(count()))
_ANSWER = Shape(
    name="EvaluationAnswer",
    about="What a model made of the row.",
    fields={
        "text": nullable(text()),
        "score": nullable(number("Between 0 and 1.")),
        "loss": nullable(number("Of the reference, in nats per token.")),
        "tokens": count("That the loss is over."),
        "error": nullable(text("Why the model could not be asked.")),
    },
)
_EXAMPLE: dict[str, Schema] = {
    "line": integer("Of the file that the row is in.", least=1),
    "slice": nullable(text()),
    "prompt": {"description": "A text, or messages.", "anyOf": [text(), array(anything("A message."))]},
    "reference": text("The answer that the row has."),
    "base": _ANSWER,
    "tuned": _ANSWER,
    "gain": nullable(number("In the score.")),
}
_SAMPLES = array(Shape(name="EvaluationSample", about="A row side by side; long texts are cut.", fields=_EXAMPLE))
EXAMPLE = Shape(
    name="EvaluationExample",
    about="A held-out row with both answers.",
    fields={
        "id": text(pattern=f"^{EXAMPLE_PREFIX}"),
        "object": constant("fine_tuning.evaluation.example"),
        **_EXAMPLE,
    },
)
EVALUATION = Shape(
    name="FineTuningEvaluation",
    about="Base and tuned model over the rows that the training never saw; figures are null until there are any.",
    fields={
        "object": constant("fine_tuning.evaluation"),
        "fine_tuning_job_id": wire_id(FineTuningJob.ID_PREFIX),
        "status": one_of([*EvaluationReport.Status.values, "cancelled"]),
        "error": nullable(
            Shape(name="EvaluationError", about="Why there are no figures.", fields={"code": text(), "message": text()})
        ),
        "created_at": moment(),
        "finished_at": nullable(moment()),
        "base_model": text(),
        "fine_tuned_model": nullable(text()),
        "rows": count("Held out."),
        "confidence": number("Of the intervals."),
        "skipped_rows": nullable(count("That one of the models could not be asked about.")),
        "headline": nullable(one_of(METRICS, "The metric to look at first.")),
        "metrics": nullable(mapping(_COMPARISON)),
        "classes": nullable(
            array(
                Shape(
                    name="ClassComparison",
                    about="A label.",
                    fields={"label": text(), "rows": count(), "base": _CLASS_FIGURES, "tuned": _CLASS_FIGURES},
                )
            )
        ),
        "confusion": nullable(
            Shape(
                name="ConfusionMatrices",
                about="Rows are the references' labels, columns the same and, last, answers that are none of them.",
                fields={"labels": array(text()), "base": _COUNTS, "tuned": _COUNTS},
            )
        ),
        "fields": nullable(
            array(
                Shape(
                    name="FieldComparison",
                    about="A field of JSON answers, and the part of its rows in which it is right.",
                    fields={"field": text(), "rows": count(), "base": _PART, "tuned": _PART},
                )
            )
        ),
        "slices": nullable(
            array(
                Shape(
                    name="SliceComparison",
                    about="The metrics over the rows of one value of the slice column.",
                    fields={"value": text(), "rows": count(), "metrics": mapping(_COMPARISON)},
                )
            )
        ),
        "samples": nullable(
            Shape(
                name="EvaluationSamples",
                about="Rows to look at: where tuning helped most, where it harmed most, and some by chance.",
                fields={"improved": _SAMPLES, "worsened": _SAMPLES, "random": _SAMPLES},
            )
        ),
        "gate": nullable(
            Shape(
                name="PromotionGate",
                about="Whether the job's alias has moved, and why; null of a job without an alias.",
                fields={
                    "alias": text(),
                    "promote_if": {"description": "The job's conditions."},
                    "passed": nullable(boolean()),
                    "promoted": nullable(boolean()),
                    "reasons": array(text()),
                    "checks": array(
                        Shape(
                            name="PromotionCheck",
                            about="One bound of a condition.",
                            fields={
                                "condition": text(),
                                "bound": one_of(["min", "max", "min_gain"]),
                                "wanted": number(),
                                "found": nullable(number("null was not measured.")),
                                "holds": boolean(),
                                "reason": text(),
                            },
                        )
                    ),
                },
            )
        ),
        "usage": Shape(
            name="EvaluationUsage",
            about="What was asked of both models; it is not charged for.",
            fields={"input_tokens": count(), "output_tokens": count(), "cost_nanos": count()},
        ),
    },
)

RETRIEVE_EVALUATION = Contract(
    summary="Show what tuning has brought",
    description="404 before the evaluation is queued, and where no rows are held out for it.",
    answer=EVALUATION,
)
LIST_EXAMPLES = Contract(
    summary="List each held-out row with both answers",
    description="In the order of the file; none before the evaluation has succeeded.",
    query=(
        limit_query(max_limit=MAX_EXAMPLES, default_limit=100),
        cursor_query("after", text(pattern=f"^{EXAMPLE_PREFIX}")),
    ),
    answer=listing(EXAMPLE),
)
