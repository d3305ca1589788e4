"""Which rows are shown side by side."""

from finetuning.metrics import Evaluation
from finetuning.predictions import Prediction
from finetuning.samples import SAMPLE_CHARACTERS, SAMPLES, Example, Samples, example_as_json
from inference_workers.protocol import ModelAnswer
from tests.support.predictions import classified, prediction


def examples(predictions: list[Prediction]) -> list[Example]:
    evaluation = Evaluation(seed=1, resamples=1)
    scored = [(entry, evaluation.add(entry)) for entry in predictions]
    return [
        Example(prediction=entry, base=scores[0] if scores else None, tuned=scores[1] if scores else None)
        for entry, scores in scored
    ]


def shown(predictions: list[Prediction], *, seed: int = 1) -> dict[str, list[int]]:
    samples = Samples(seed=seed)
    for example in examples(predictions):
        samples.add(example)
    return {sort: [sample["line"] for sample in found] for sort, found in samples.as_json().items()}


# Right after tuning in every third row, wrong after it in every fourth; the loss falls the more the later the row.
ROWS = [
    classified(
        line,
        "positive",
        "negative" if line % 3 == 0 else "positive",
        "negative" if line % 4 == 0 else "positive",
        losses=(2.0, 2.0 - line / 100),
    )
    for line in range(1, 61)
]


def test_the_most_improved_and_the_most_worsened_rows_are_shown_the_worst_first() -> None:
    found = shown(ROWS)
    assert found["improved"] == [57, 54, 51, 45, 42]
    # Of equal scores that one is the worst whose loss fell least.
    assert found["worsened"] == [4, 8, 16, 20, 28]


def test_rows_by_chance_depend_on_the_seed_alone() -> None:
    found = shown(ROWS)["random"]
    assert len(set(found)) == SAMPLES
    assert found == sorted(found)
    assert shown(ROWS[::-1])["random"] == found
    assert shown(ROWS, seed=2)["random"] != found


def test_nothing_improves_where_nothing_changes() -> None:
    found = shown([classified(line, "positive", "neutral", "neutral") for line in range(3)])
    assert found == {"improved": [], "worsened": [], "random": [0, 1, 2]}


def test_a_row_without_an_answer_is_no_sample_and_an_example_without_scores() -> None:
    row = prediction(8, "a", "a", None)
    (example,) = examples([row])
    assert shown([row]) == {"improved": [], "worsened": [], "random": []}
    assert example_as_json(example) == {
        "line": 8,
        "slice": None,
        "prompt": [{"role": "user", "content": "row 8"}],
        "reference": "a",
        "base": {"text": "a", "score": None, "loss": None, "tokens": 0, "error": None},
        "tuned": {"text": None, "score": None, "loss": None, "tokens": 0, "error": None},
        "gain": None,
    }


def test_long_texts_are_cut_in_samples_alone() -> None:
    long = "word " * SAMPLE_CHARACTERS
    (example,) = examples([prediction(1, long, "word", long)])
    samples = Samples(seed=1)
    samples.add(example)
    (sample,) = samples.as_json()["random"]
    assert len(sample["tuned"]["text"]) == SAMPLE_CHARACTERS + 1
    assert sample["prompt"] == "row 1"
    assert example_as_json(example)["tuned"]["text"] == long


def test_a_message_without_text_can_be_shown() -> None:
    row = prediction(1, "a", "a", "b")
    row.row.prompt[:] = [{"role": "tool", "content": None}]  # type: ignore[index]  # a list of messages
    samples = Samples(seed=1)
    samples.add(examples([row])[0])
    assert samples.as_json()["random"][0]["prompt"] == ""
    assert row.base == ModelAnswer(text="a")
