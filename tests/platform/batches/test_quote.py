"""A quote reads like validation, and leaves nothing behind."""

from typing import Any

import pytest

from tests.support.cast import Cast
from tests.support.facts import count
from tests.support.rows import create, jsonl, line, quote, retrieve, submit
from tests.support.worker import Worker, run_control


def test_a_quote_tells_the_expected_and_the_greatest_cost(cast: Cast) -> None:
    content = jsonl([line(1), line(2, method="GET"), line(3)]) + b"bad\n"
    found = quote(cast.alice, content)
    assert found["request_counts"] == {"total": 4, "valid": 2, "invalid": 2}
    assert found["invalid_codes"] == {"invalid_method": 1, "invalid_json_line": 1}
    assert [(error["line"], error["code"]) for error in found["errors"]["data"]] == [
        (2, "invalid_method"),
        (4, "invalid_json_line"),
    ]
    (model,) = found["models"]
    assert (model["model"], model["requests"], model["estimated_output_tokens"]) == ("little", 2, 32)
    assert model["estimated_cost_nanos"] == model["estimated_input_tokens"] * 50 + 32 * 100
    assert found["estimated_cost_nanos"] < found["max_cost_nanos"]
    assert found["is_affordable"] is True
    assert (count("batches_batch"), count("fleet_lease"), count("billing_hold")) == (0, 0, 0)


def test_what_is_held_is_what_was_quoted_and_more_than_it_will_cost(cast: Cast) -> None:
    content = jsonl([line(number) for number in range(1, 8)])
    quoted = quote(cast.alice, content)
    batch = submit(cast.alice, content)
    run_control()
    held = cast.alice.admin.get("/v1/organization/balance").json()["held_nanos"]
    assert held == quoted["max_cost_nanos"]
    Worker().answer_all()
    run_control()
    assert retrieve(cast.alice, batch)["cost_nanos"] < quoted["max_cost_nanos"]


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({"n": 3}, 3),
        ({"max_tokens": 32}, 2),
        ({"max_completion_tokens": 48}, 3),
    ],
)
def test_the_bound_grows_with_what_may_be_answered(cast: Cast, body: dict[str, Any], answers: int) -> None:
    entry = line(1)
    plain = jsonl([entry])
    changed = jsonl([line(1, body={**entry["body"], **body})])
    difference = quote(cast.alice, changed)["max_cost_nanos"] - quote(cast.alice, plain)["max_cost_nanos"]
    assert difference == (answers - 1) * 16 * 100 + (len(changed) - len(plain)) * 50


def test_without_a_limit_an_answer_may_fill_the_context(cast: Cast) -> None:
    entry = line(1)
    del entry["body"]["max_tokens"]
    found = quote(cast.alice, jsonl([entry]))
    assert found["max_cost_nanos"] > 4_096 * 100
    assert found["models"][0]["estimated_output_tokens"] == 256


def test_every_prompt_of_a_completion_may_be_answered(cast: Cast) -> None:
    entry = line(
        1, url="/v1/completions", body={"model": "little", "prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}
    )
    found = quote(cast.alice, jsonl([entry]), endpoint="/v1/completions")
    assert found["models"][0]["estimated_output_tokens"] == 60


def test_a_window_has_its_own_price(cast: Cast) -> None:
    content = jsonl([line(1)])
    assert quote(cast.alice, content, completion_window="1h")["max_cost_nanos"] > 0
    answer = create(cast.alice, cast.alice.client.upload(content).json()["id"], completion_window="2h")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "completion_window")


@pytest.mark.parametrize(("content", "code"), [(b"[1]\n", "invalid_jsonl"), (b" \n", "empty_file")])
def test_a_file_that_is_no_batch_is_no_quote(cast: Cast, content: bytes, code: str) -> None:
    file_id = cast.alice.client.upload(content).json()["id"]
    fields = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = cast.alice.client.post("/v1/batches/quote", fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_strangers_file_is_not_quoted(cast: Cast) -> None:
    file_id = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    fields = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert cast.charlie.client.post("/v1/batches/quote", fields).json()["error"]["code"] == "not_found"
