"""``POST /v1/fine_tuning/quote``: what is quoted is what is held."""

from typing import Any

import pytest

from finetuning import quotes
from tests.support.cast import MODEL, Cast
from tests.support.facts import count
from tests.support.jobs import queue, trainer_node, training_file
from tests.support.money import set_balance
from tests.support.tables import rows_of
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def ask(cast: Cast, **fields: Any) -> Any:
    return cast.alice.client.post("/v1/fine_tuning/quote", {"model": MODEL, **fields})


def quote(cast: Cast, **fields: Any) -> Any:
    answer = ask(cast, **fields)
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 5}}}},
        {"validation_fraction": 0.25, "seed": 7},
        {"hyperparameters": {"max_seq_length": 40, "train_on": "all"}},
    ],
)
def test_what_is_quoted_is_what_is_held(cast: Cast, fields: dict[str, Any]) -> None:
    file_id = training_file(cast.alice, 40)
    quoted = quote(cast, training_file=file_id, **fields)
    job = queue(cast.alice, training_file=file_id, **fields)
    assert quoted["max_cost_nanos"] == job["max_cost_nanos"] > 0
    assert quoted["examples"] == job["dataset"]["train"]["rows"]
    assert quoted["total_tokens"] == job["progress"]["total_tokens"]
    assert quoted["total_steps"] == job["progress"]["total_steps"]
    assert quoted["hyperparameters"] == job["hyperparameters"]
    assert (quoted["is_trainable"], quoted["is_affordable"], quoted["is_estimate"]) == (True, True, False)


def test_a_quote_makes_nothing(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    before = rows_of(cast.alice.organization.id)
    quote(cast, training_file=file_id)
    assert rows_of(cast.alice.organization.id) == before
    assert count("finetuning_finetuningjob") == 0


def test_a_quote_says_when_the_balance_does_not_reach(cast: Cast) -> None:
    set_balance(cast.alice, 10)
    quoted = quote(cast, training_file=training_file(cast.alice))
    assert (quoted["is_affordable"], quoted["available_nanos"]) == (False, 10)


def test_a_quote_names_bad_rows(cast: Cast) -> None:
    file = cast.alice.client.upload(b'{"messages": []}\n', purpose="fine-tune").json()
    quoted = quote(cast, training_file=file["id"])
    assert (quoted["is_trainable"], quoted["max_cost_nanos"], quoted["hyperparameters"]) == (False, 0, None)
    assert [(problem["line"], problem["code"]) for problem in quoted["problems"]] == [(1, "empty_messages")]


def test_a_quote_says_how_long_a_node_would_take(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    assert quote(cast, training_file=file_id)["estimated_seconds"] is None
    trainer_node(training_tokens_per_second=100.0)
    quoted = quote(cast, training_file=file_id)
    assert quoted["estimated_seconds"] == round(quoted["total_tokens"] / 100)


def test_of_a_large_file_its_report_is_asked(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = training_file(cast.alice, 40)
    exact = quote(cast, training_file=file_id)
    monkeypatch.setattr(quotes, "EXACT_BYTES", 100)
    refused = ask(cast, training_file=file_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert f"/v1/files/{file_id}/report?model={MODEL}" in refused.json()["error"]["message"]
    run_control()
    assert quote(cast, training_file=file_id) == {**exact, "is_estimate": True}
    held_out = quote(cast, training_file=file_id, validation_fraction=0.5)
    assert (held_out["examples"], held_out["tokens_per_epoch"]) == (20, exact["tokens_per_epoch"] // 2)
    assert ask(cast, training_file=file_id, column_mapping={"columns": {"user": "q"}}).status_code in (400, 409)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nobody"}, "model_not_found"),
        ({"training_file": "file-x"}, "not_found"),
        ({"recipe": "nothing"}, "invalid_value"),
        ({"suffix": "x"}, "unknown_parameter"),
    ],
)
def test_what_cannot_be_quoted_is_refused(cast: Cast, fields: dict[str, Any], code: str) -> None:
    answer = ask(cast, **{"training_file": training_file(cast.alice), **fields})
    assert answer.json()["error"]["code"] == code
