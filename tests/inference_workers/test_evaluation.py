"""What is asked of a held-out row, and what is made of the answers."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from inference_workers.evaluation import Answers, Question, questions_of
from inference_workers.protocol import AdapterRef, BlobRef, EvaluationWork, ModelAnswer, RowError, RowResult

BASE = "base"
TUNED = "ft:base:org::1"
MESSAGES = [{"role": "user", "content": "Good or bad?"}]
ROW = {
    "line": 7,
    "messages": MESSAGES,
    "reference": "good",
    "max_tokens": 9,
    "choices": ["good", "bad"],
    "ids": [5, 6, 7, 8],
    "trained": [[0, 1], [2, 4]],
}
WORK = EvaluationWork(
    job_id="ftjob-1",
    adapter=AdapterRef(name=TUNED, files={}, rank=8),
    rows=1,
    data=BlobRef(sha256="", bytes=0),
    context_length=64,
    row_timeout_seconds=60,
    cache_salt="salt",
)


def asked(row: dict[str, Any], work: EvaluationWork = WORK) -> list[tuple[str, dict[str, Any]]]:
    return [(question.endpoint, orjson.loads(question.body)) for question in questions(row, work)]


def questions(row: dict[str, Any], work: EvaluationWork = WORK) -> list[Question]:
    return list(questions_of(row, lease_id="lease_1", base=BASE, work=work, members={"priority": 10}))


def test_both_models_are_asked_for_an_answer_and_for_the_likelihood_of_the_reference() -> None:
    common = {"temperature": 0, "cache_salt": "salt", "priority": 10}
    answer = {"messages": MESSAGES, "max_tokens": 9, "structured_outputs": {"choice": ["good", "bad"]}}
    likelihood = {"prompt": [5, 6, 7, 8], "max_tokens": 1, "prompt_logprobs": 0}
    assert asked(ROW) == [
        ("/v1/chat/completions", {"model": BASE, **answer, **common}),
        ("/v1/completions", {"model": BASE, **likelihood, **common}),
        ("/v1/chat/completions", {"model": TUNED, **answer, **common}),
        ("/v1/completions", {"model": TUNED, **likelihood, **common}),
    ]
    assert {question.line for question in questions(ROW)} == {7}


def test_json_is_asked_for_by_its_schema_without_free_white_space() -> None:
    row = {"line": 1, "prompt": "Extract", "max_tokens": 5, "json_schema": {"type": "object"}}
    endpoint, body = asked(row)[0]
    assert endpoint == "/v1/completions"
    assert body["prompt"] == "Extract"
    assert body["structured_outputs"] == {"json": {"type": "object"}}


def test_what_is_not_trained_on_is_not_asked_about() -> None:
    for row in (ROW | {"ids": None}, ROW | {"trained": []}, ROW | {"trained": [[0, 1]]}):
        assert [question.asks_loss for question in questions(row)] == [False, False]


def test_a_row_as_long_as_the_context_leaves_room_for_the_token_that_is_produced() -> None:
    work = replace(WORK, context_length=4)
    assert asked(ROW, work)[1][1]["prompt"] == [5, 6, 7]
    assert len(asked(ROW | {"trained": [[3, 4]]}, work)) == 2


def answered(question: Question) -> RowResult:
    """As an engine would; the tuned model is surer of everything."""
    usage = {"prompt_tokens": 4, "completion_tokens": 2}
    if not question.asks_loss:
        choice: dict[str, Any] = {"message": {"content": f"good, says {question.system}"}}
    else:
        sure = 1.0 if question.system == "tuned" else 2.0
        ids = orjson.loads(question.body)["prompt"]
        tokens = [{str(token): {"logprob": -sure * token}} for token in ids[1:]]
        choice = {"text": "", "prompt_logprobs": [None, *tokens]}
    return RowResult(line=question.line, status=200, body={"choices": [choice], "usage": usage})


def test_the_answers_become_one_result() -> None:
    answers = Answers(ROW, WORK)
    assert [answers.take(question, answered(question)) for question in questions(ROW)] == [False, False, False, True]
    result = answers.result()
    # Positions 2 and 3 hold the tokens 7 and 8; position 0 is predicted from nothing.
    assert result.line == 7
    assert result.base == ModelAnswer(text="good, says base", loss=15.0, tokens=2, input_tokens=8, output_tokens=4)
    assert result.tuned == ModelAnswer(text="good, says tuned", loss=7.5, tokens=2, input_tokens=8, output_tokens=4)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (RowResult(line=7, status=400, body={"error": {"message": "too long"}}), "too long"),
        (RowResult(line=7, error=RowError(code="request_timeout", message="too slow")), "too slow"),
        (RowResult(line=7, status=404, body={"detail": "?"}), "status 404"),
        (RowResult(line=7, status=200, body={"choices": []}), "The engine's answer has no choice."),
        (
            RowResult(line=7, status=200, body={"choices": [{"prompt_logprobs": [None, {"6": {"logprob": 1}}]}]}),
            "The engine did not give the likelihood of every token.",
        ),
    ],
)
def test_what_could_not_be_asked_is_told(result: RowResult, error: str) -> None:
    answers = Answers(ROW, WORK)
    for question in questions(ROW):
        answers.take(question, result if question.system == "tuned" and question.asks_loss else answered(question))
    told = answers.result()
    assert told.tuned == ModelAnswer(text="good, says tuned", error=error, input_tokens=4, output_tokens=2)
    assert told.base.error is None


def test_a_model_without_an_answer_has_no_text() -> None:
    answers = Answers(ROW, WORK)
    for question in questions(ROW):
        answers.take(question, RowResult(line=7, status=500) if not question.asks_loss else answered(question))
    assert answers.result().base == ModelAnswer(
        text=None, loss=15.0, tokens=2, error="status 500", input_tokens=4, output_tokens=2
    )
