"""Figures that were worked out by hand, or by the reference implementation of what they measure."""

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from finetuning.figures import as_json
from finetuning.measures import MAX_CLASSES
from finetuning.metrics import MAX_SLICES, Evaluation
from finetuning.predictions import Prediction
from inference_workers.protocol import ModelAnswer
from tests.support.predictions import LABELS, classified, evaluated, prediction

SENTIMENT = [
    classified(1, "positive", "positive", "positive"),
    classified(2, "positive", "positive", "negative"),
    classified(3, "positive", "positive", " positive\n"),
    classified(4, "negative", "positive", "negative"),
    classified(5, "negative", "positive", "no idea"),
    classified(6, "neutral", "positive", "neutral"),
]


def test_a_classification_is_scored_per_class_and_over_all() -> None:
    summary = evaluated(SENTIMENT)
    assert {name: (metric.base, metric.tuned) for name, metric in summary.metrics.items()} == {
        "accuracy": (0.5, 0.666667),
        "precision_macro": (0.166667, 0.833333),
        "recall_macro": (0.333333, 0.722222),
        "f1_macro": (0.222222, 0.766667),
        "precision_weighted": (0.25, 0.833333),
        "recall_weighted": (0.5, 0.666667),
        "f1_weighted": (0.333333, 0.733333),
        "exact_match": (0.5, 0.666667),
    }
    assert [(of_class.label, of_class.rows, of_class.base, of_class.tuned) for of_class in summary.classes] == [
        ("negative", 2, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
        ("neutral", 1, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("positive", 3, (0.5, 1.0, 0.666667), (1.0, 0.666667, 0.8)),
    ]
    assert summary.headline == "accuracy"
    assert summary.metrics["accuracy"].gain == 0.166667


def test_the_confusion_matrix_has_a_column_for_answers_that_are_no_label() -> None:
    confusion = evaluated(SENTIMENT).confusion
    assert confusion is not None
    assert confusion.labels == list(LABELS)
    assert confusion.base == [[0, 0, 2, 0], [0, 0, 1, 0], [0, 0, 3, 0]]
    assert confusion.tuned == [[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 2, 0]]


def test_a_label_called_other_is_not_what_is_no_label() -> None:
    rows = [prediction(1, "other", "nonsense", "other", choices=("other", "spam"))]
    confusion = evaluated(rows).confusion
    assert confusion is not None
    assert (confusion.base, confusion.tuned) == ([[0, 0, 1], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]])


def test_labels_that_come_later_are_counted_as_if_they_had_been_known() -> None:
    first = [prediction(1, "a", "a", "a", choices=("a", "b")), prediction(2, "c", "d", "c", choices=("c", "d"))]
    together = [replace(entry, row=replace(entry.row, choices=("a", "b", "c", "d"))) for entry in first]
    assert evaluated(first) == evaluated(together)


def test_of_too_many_labels_only_the_accuracy_is_told() -> None:
    labels = tuple(f"label {number}" for number in range(MAX_CLASSES + 1))
    summary = evaluated([prediction(1, "label 7", "label 8", "label 7", choices=labels)])
    assert set(summary.metrics) == {"accuracy", "exact_match"}
    assert (summary.classes, summary.confusion) == ([], None)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip/code": {"type": "string"}}},
        "vip": {"type": "boolean"},
    },
    "required": ["name"],
}


def extracted(line: int, reference: object, base: str, tuned: object) -> Prediction:
    text = orjson.dumps(reference).decode()
    return prediction(line, text, base, orjson.dumps(tuned).decode(), json_schema=SCHEMA)


def test_json_answers_are_judged_by_schema_and_by_field() -> None:
    reference = {"name": "Ada", "address": {"city": "Bath", "zip/code": "BA1"}, "vip": True}
    summary = evaluated(
        [
            extracted(1, reference, "Ada lives in Bath", reference),
            extracted(2, reference, '{"name": 1}', {**reference, "vip": 1}),
            extracted(3, {"name": "Bo"}, '{"vip": false}', {"name": "Bo"}),
        ]
    )
    # Line 1: none of four fields, all. Line 2: none, and three (1 is not true). Line 3: of name, city, code and vip
    # that are not in the reference the base is right about two, the tuned model about all.
    assert (summary.metrics["json_validity"].base, summary.metrics["json_validity"].tuned) == (0, 0.666667)
    assert (summary.metrics["field_accuracy"].base, summary.metrics["field_accuracy"].tuned) == (0.166667, 0.916667)
    assert (summary.metrics["exact_match"].base, summary.metrics["exact_match"].tuned) == (0, 0.666667)
    assert [(field.field, field.rows, field.base, field.tuned) for field in summary.fields] == [
        ("/name", 3, 0, 1),
        ("/address/city", 3, 0.333333, 1),
        ("/address/zip~1code", 3, 0.333333, 1),
        ("/vip", 3, 0, 0.666667),
    ]
    assert summary.headline == "field_accuracy"


def test_json_that_is_written_in_another_way_is_the_same() -> None:
    row = prediction(1, '{"a": 1, "b": [2]}', "{}", '{"b":[2.0],"a":1}', json_schema={"type": "object"})
    assert evaluated([row]).metrics["exact_match"].tuned == 1


def test_no_customers_schema_fetches_or_takes_for_ever() -> None:
    hard = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    answer = orjson.dumps({"a": "a" * 40 + "!"}).decode()
    far = {"$ref": "http://127.0.0.1:9/schema.json"}
    rows = [
        prediction(1, '{"a": "a"}', '{"a": "aaa"}', answer, json_schema=hard),
        prediction(2, "{}", "{}", "{}", json_schema=far),
    ]
    assert [evaluated([row]).metrics["json_validity"].base for row in rows] == [1, 0]
    assert evaluated(rows[:1]).metrics["json_validity"].tuned == 0


TEXTS = [
    ("The police killed the gunman.", "police kill the gunman", (0.666667, 0.285714, 0.666667)),
    ("It is 9.5 kg, isn't it?", "it's 9.5 kg", (0.615385, 0.363636, 0.615385)),
    (
        "A quick brown_fox jumps over the lazy dog",
        "The lazy brown fox over a dog over a dog",
        (0.736842, 0.235294, 0.421053),
    ),
]
"""Reference, text, and the F-measures of ROUGE-1, -2 and -L that rouge-score 0.1.2 gives without stemming."""


@pytest.mark.parametrize(("reference", "text", "rouge"), TEXTS)
def test_rouge_is_the_reference_implementations(reference: str, text: str, rouge: tuple[float, ...]) -> None:
    metrics = evaluated([prediction(1, reference, "", text)]).metrics
    assert tuple(metrics[name].tuned for name in ("rouge_1", "rouge_2", "rouge_l")) == rouge
    assert tuple(metrics[name].base for name in ("rouge_1", "rouge_2", "rouge_l")) == (0, 0, 0)


def test_bleu_is_sacrebleus_of_all_rows_and_chrf_the_mean_of_its_rows() -> None:
    references, texts = [pair[0] for pair in TEXTS], [pair[1] for pair in TEXTS]
    metrics = evaluated(prediction(line, TEXTS[line][0], "", TEXTS[line][1]) for line in range(len(TEXTS))).metrics
    assert metrics["bleu"].tuned == pytest.approx(BLEU().corpus_score(texts, [references]).score / 100, abs=1e-6)
    each = [CHRF().sentence_score(text, [wanted]).score / 100 for text, wanted in zip(texts, references, strict=True)]
    assert metrics["chrf"].tuned == pytest.approx(sum(each) / len(each), abs=1e-6)
    assert (metrics["bleu"].base, metrics["chrf"].base) == (0, 0)


def test_text_without_spaces_is_not_worthless() -> None:
    metrics = evaluated([prediction(1, "今天天气很好", "今天天气很好", "今天很好")]).metrics
    assert metrics["rouge_1"].base == metrics["rouge_l"].base == metrics["bleu"].base == 1
    assert metrics["rouge_1"].tuned == 0.8
    assert metrics["rouge_l"].tuned == 0.8


def test_cross_entropy_counts_every_token_the_same() -> None:
    rows = [
        prediction(1, "a", "a", "a", losses=(2.0, 1.0), tokens=1),
        prediction(2, "b", "b", "b", losses=(4.0, 0.5), tokens=3),
    ]
    metrics = evaluated(rows).metrics
    assert (metrics["cross_entropy"].base, metrics["cross_entropy"].tuned) == (3.5, 0.625)
    assert metrics["perplexity"].base == pytest.approx(math.exp(3.5), abs=1e-6)
    assert (metrics["cross_entropy"].gain, metrics["cross_entropy"].better) == (2.875, "lower")


def test_a_row_that_one_model_could_not_answer_counts_for_neither() -> None:
    row = classified(7, "neutral", "neutral", "neutral")
    failed = replace(row, tuned=ModelAnswer(text=None, error="The prompt is too long."))
    summary = evaluated([*SENTIMENT, failed])
    assert (summary.rows, summary.skipped_rows) == (6, 1)
    assert summary.metrics == evaluated(SENTIMENT).metrics


def test_slices_tell_the_same_metrics_of_their_rows() -> None:
    rows = [
        replace(entry, row=replace(entry.row, slice="odd" if entry.row.line % 2 else "even")) for entry in SENTIMENT
    ]
    whole = evaluated(rows)
    odd = evaluated([entry for entry in rows if entry.row.line % 2])
    assert [(part.value, part.rows) for part in whole.slices] == [("odd", 3), ("even", 3)]
    assert whole.slices[0].metrics == odd.metrics
    assert whole.metrics == evaluated(SENTIMENT).metrics


def test_rows_of_more_slices_than_are_told_count_in_the_whole() -> None:
    rows = [classified(line, "neutral", "neutral", "neutral", slice=f"slice {line}") for line in range(MAX_SLICES + 3)]
    summary = evaluated(rows)
    assert len(summary.slices) == MAX_SLICES
    assert summary.rows == MAX_SLICES + 3


def fifty(right_of_tuned: int) -> list[Prediction]:
    """The base is right in every second of 50 rows, the tuned model in the first so many."""
    return [
        classified(
            line,
            "positive",
            "positive" if line % 2 else "negative",
            "positive" if line <= right_of_tuned else "negative",
            losses=(2.0, 2.0 if line % 5 else 1.0),
        )
        for line in range(1, 51)
    ]


def test_the_interval_of_a_gain_says_whether_it_is_luck() -> None:
    clear = evaluated(fifty(45)).metrics
    luck = evaluated(fifty(27)).metrics
    assert clear["accuracy"].gain == 0.4
    assert clear["accuracy"].interval is not None
    assert luck["accuracy"].interval is not None
    # The standard error of the mean difference is 0.081 and 0.103.
    assert clear["accuracy"].interval == pytest.approx((0.4 - 1.96 * 0.081, 0.4 + 1.96 * 0.081), abs=0.06)
    assert luck["accuracy"].interval[0] < 0 < luck["accuracy"].interval[1]
    assert clear["cross_entropy"].interval is not None
    assert clear["cross_entropy"].interval[0] > 0


def test_few_rows_have_no_interval() -> None:
    assert evaluated(SENTIMENT).metrics["accuracy"].interval is None


def test_the_same_rows_and_seed_give_the_same_figures_and_another_seed_other_intervals() -> None:
    rows = fifty(30)
    assert evaluated(rows, seed=3) == evaluated(rows, seed=3)
    assert evaluated(rows, seed=3).metrics["accuracy"].interval != evaluated(rows, seed=4).metrics["accuracy"].interval


def test_memory_does_not_grow_with_rows() -> None:
    evaluation = Evaluation(seed=1, resamples=100)

    def add(lines: range) -> int:
        for line in lines:
            evaluation.add(classified(line, LABELS[line % 3], "neutral", "positive", slice=str(line % 4)))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert add(range(200)) > add(range(200, 2_000)) - 20_000
    finally:
        tracemalloc.stop()


def test_the_figures_are_json() -> None:
    content = as_json(evaluated([*SENTIMENT, extracted(7, {"name": "a"}, "", {"name": "a"})]))
    assert orjson.loads(orjson.dumps(content)) == content
    assert content["metrics"]["accuracy"] == {
        "base": 0.5,
        "tuned": 0.666667,
        "gain": 0.166667,
        "better": "higher",
        "rows": 6,
        "interval": None,
    }
    assert content["classes"][1] == {
        "label": "neutral",
        "rows": 1,
        "base": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
        "tuned": {"precision": 1.0, "recall": 1.0, "f1": 1.0},
    }
