"""What the report says about training data."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from catalog.models import BaseModel
from tests.support.cast import MODEL, Cast
from tests.support.model import TRAINING, add_chat_model, add_model
from tests.support.training import chat, prepare, report, rows, store, upload

HEAD = 1 + len("system\nBe helpful.") + 2 + 1 + len("user\n") + 2 + 1 + len("assistant\n")
"""Tokens around a question: one for each byte and each special token."""


def warnings(found: Any) -> dict[str, int]:
    return {warning["code"]: warning["rows"] for warning in found["warnings"]}


def questions(number: int) -> list[dict[str, Any]]:
    """Rows that are not alike."""
    words = ("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island", "jungle")
    return [
        chat(f"{words[at % 10]} {at} {words[at // 10 % 10]}?", f"{words[-at % 10]} {words[at // 3 % 10]} {at}")
        for at in range(number)
    ]


def test_tokens_are_those_that_are_trained_and_paid_for(cast: Cast, base: BaseModel) -> None:
    content = rows([chat("Hi", "Hello!"), chat("Hi" * 10, "Bye", "So?", "No")])
    found = report(cast.alice, upload(cast.alice, content))
    statistics = found["statistics"]
    prepared = prepare(base, store(cast.alice, content))
    assert found["model"] == base.name
    assert statistics["tokens_per_epoch"] == prepared.train.tokens
    assert statistics["trained_tokens"]["total"] == prepared.train.trained_tokens
    first = HEAD + len("Hi") + len("Hello!") + 2
    assert (statistics["tokens"]["min"], statistics["longest"][1]) == (first, {"line": 1, "tokens": first})
    assert (statistics["turns"]["min"], statistics["turns"]["max"]) == (2, 4)
    assert found["quote"] == {
        "tokens_per_epoch": prepared.train.tokens,
        "price_nanos_per_token": TRAINING.input_nanos,
        "cost_nanos_per_epoch": prepared.train.tokens * TRAINING.input_nanos,
        "epochs": 3,
        "cost_nanos": prepared.train.tokens * TRAINING.input_nanos * 3,
    }


def test_rows_beyond_the_models_limit_are_named(cast: Cast, base: BaseModel, tmp_path: Path) -> None:
    add_chat_model(tmp_path / "short", name="short", context_length=HEAD + 10)
    content = rows([chat("Hi", "Hello"), chat("Ho", "x" * 30), chat("Hi" * 50, "y")])
    file_id = upload(cast.alice, content)
    fits = report(cast.alice, file_id)
    assert fits["statistics"]["truncated"] == {"limit": 4_096, "rows": 0, "lines": []}
    found = report(cast.alice, file_id, model="short")
    assert found["statistics"]["truncated"] == {"limit": HEAD + 10, "rows": 2, "lines": [2, 3]}
    assert found["statistics"]["skipped"] == {"rows": 1, "lines": [3]}
    assert warnings(found) == {"few_rows": 3, "skipped": 1, "truncated": 2}
    assert found["statistics"]["tokens"] == fits["statistics"]["tokens"]


def test_without_a_model_that_can_be_trained_rows_are_checked_all_the_same(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    found = report(cast.alice, upload(cast.alice, rows([chat("Hi", "Hello!"), {}])))
    assert (found["model"], found["quote"], found["statistics"]["tokens"]) == (None, None, None)
    assert found["rows"] == {"total": 2, "valid": 1, "invalid": 1}


def test_what_the_models_template_refuses_is_a_bad_row(cast: Cast, base: BaseModel) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    found = report(cast.alice, upload(cast.alice, rows([chat("Hi", "Hello!"), chat("Hi", "Ho!", tools=[tool])])))
    (problem,) = found["problems"]["data"]
    assert (problem["line"], problem["pointer"], problem["code"]) == (2, "/tools", "tools_not_supported")


def test_rows_that_stand_twice_or_nearly_are_named_with_their_likes(cast: Cast, base: BaseModel) -> None:
    text = "My parcel with the red shoes has not arrived although I ordered it two weeks ago in your shop"
    values = [chat(text, "We look for it"), *questions(10), chat(text, "We look for it")]
    values += [chat(f"{text}!!", "We look for it"), chat(text, "It is on its way")]
    found = report(cast.alice, upload(cast.alice, rows(values)))
    duplicates = found["duplicates"]
    assert duplicates["exact"] == {"rows": 1, "data": [{"line": 12, "like": 1}]}
    assert duplicates["same_question"] == {"rows": 1, "data": [{"line": 14, "like": 1}]}
    assert [(pair["line"], pair["like"]) for pair in duplicates["near"]["data"]] == [(13, 1)]
    assert duplicates["near"]["data"][0]["similarity"] == pytest.approx(1, abs=0.1)
    assert (duplicates["near"]["threshold"], duplicates["near"]["is_complete"]) == (0.7, True)
    assert warnings(found) == {"same_question": 1, "duplicates": 1, "near_duplicates": 1}


def test_rows_that_stand_in_the_validation_file_are_named(cast: Cast, base: BaseModel) -> None:
    text = "My parcel with the red shoes has not arrived although I ordered it two weeks ago in your shop"
    held_out = upload(
        cast.alice, b"\n" + rows([chat("Same?", "Yes"), chat("Who?", "Me"), chat(text, "We look for it")])
    )
    values = [*questions(12), chat("Same?", "Yes"), chat("Who?", "You"), chat(f"Hello! {text}", "We look for it")]
    file_id = upload(cast.alice, rows(values))
    assert report(cast.alice, file_id)["leakage"] is None
    found = report(cast.alice, file_id, validation_file=held_out)
    leakage = found["leakage"]
    assert leakage["validation_rows"] == 3
    assert leakage["exact"] == {"rows": 1, "data": [{"line": 13, "like": 2}]}
    assert leakage["same_question"] == {"rows": 1, "data": [{"line": 14, "like": 3}]}
    assert [(pair["line"], pair["like"]) for pair in leakage["near"]["data"]] == [(15, 4)]
    assert warnings(found) == {"leakage": 3}
    assert found["validation_file"] == held_out


def test_few_answers_are_counted_as_labels(cast: Cast, base: BaseModel) -> None:
    values = [chat(f"Is {number} even or odd today?", "even") for number in range(95)]
    values += [chat("One?", "odd"), chat("Two?", "Even"), chat("Three?", "odd."), chat("Four?", "even ")]
    found = report(cast.alice, upload(cast.alice, rows(values)))
    assert found["labels"] == [
        {"label": "even", "rows": 95}, {"label": "odd", "rows": 1}, {"label": "Even", "rows": 1},
        {"label": "odd.", "rows": 1}, {"label": "even ", "rows": 1},
    ]  # fmt: skip
    counted = warnings(found)
    assert (counted["label_spelling"], counted["rare_labels"], counted["dominant_label"]) == (3, 4, 95)


def test_many_answers_are_no_labels(cast: Cast, base: BaseModel) -> None:
    assert report(cast.alice, upload(cast.alice, rows(questions(20))))["labels"] is None


def test_secrets_and_personal_data_are_named_by_kind_and_line_and_never_shown(cast: Cast, base: BaseModel) -> None:
    secret, mail = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "anna@example.com"
    values = [*questions(12), chat("Key?", secret), chat("Mail?", mail), chat("Mail, please?", mail)]
    found = report(cast.alice, upload(cast.alice, rows(values)))
    assert found["sensitive"] == [
        {"kind": "email", "is_secret": False, "rows": 2, "lines": [14, 15]},
        {"kind": "stripe_key", "is_secret": True, "rows": 1, "lines": [13]},
    ]
    assert warnings(found) == {"secrets": 1, "personal_data": 2}
    text = orjson.dumps(found).decode()
    assert (secret in text, mail in text) == (False, False)


def test_a_label_that_is_personal_is_not_shown(cast: Cast, base: BaseModel) -> None:
    found = report(cast.alice, upload(cast.alice, rows([chat(f"{at}?", "a@example.com") for at in range(12)])))
    assert found["labels"] == [{"label": "(not shown)", "rows": 12}]


def test_texts_that_could_not_be_read_are_counted(cast: Cast, base: BaseModel) -> None:
    found = report(cast.alice, upload(cast.alice, rows([*questions(10), chat("Gr\N{REPLACEMENT CHARACTER}e", "x")])))
    assert warnings(found) == {"garbled_text": 1}


def test_texts_that_end_turns_are_counted(cast: Cast, base: BaseModel) -> None:
    found = report(cast.alice, upload(cast.alice, rows([*questions(10), chat("Hi<|im_end|>there", "x")])))
    assert warnings(found) == {"special_tokens": 1}


def test_a_table_is_read_by_a_recipe_or_a_mapping(cast: Cast, base: BaseModel) -> None:
    table = b"tweet,mood\nFine!,positive\nBad!,angry\n"
    file_id = upload(cast.alice, table, filename="table.csv")
    found = report(cast.alice, file_id)
    assert found["problems"]["data"][0]["code"] == "mapping_required"
    assert found["problems"]["data"][0]["line"] is None
    mapping = {"columns": {"text": "tweet", "label": "mood"}}
    found = report(cast.alice, file_id, recipe="sentiment", column_mapping=mapping)
    assert (found["recipe"], found["format"], found["rows"]["valid"]) == ("sentiment", "chat", 1)
    assert [(problem["line"], problem["pointer"]) for problem in found["problems"]["data"]] == [(3, "/mood")]
    rejects = cast.alice.client.get(
        f"/v1/files/{file_id}/report/rejects",
        data={"recipe": "sentiment", "column_mapping": orjson.dumps(mapping).decode()},
    )
    assert orjson.loads(rejects.getvalue())["row"] == "Bad!,angry"


def test_a_model_that_the_key_may_not_use_holds_nothing_against_data(cast: Cast, base: BaseModel) -> None:
    project = f"/v1/organization/projects/{cast.alice.project.wire_id}/model_permissions"
    assert cast.alice.admin.post(project, {"mode": "deny_list", "model_ids": [MODEL]}).status_code == 200
    file_id = upload(cast.alice, rows([chat("Hi", "Hello!")]))
    assert report(cast.alice, file_id)["model"] is None
    answer = cast.alice.client.get(f"/v1/files/{file_id}/report?model={MODEL}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_all_three_formats_are_described(cast: Cast, base: BaseModel) -> None:
    preference = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello!"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    for value, name, tokens in (
        ({"prompt": "1 + 1 =", "completion": " 2"}, "completion", len("1 + 1 = 2") + 1),
        (preference, "preference", HEAD + len("Hi") + len("Hello!") + 1),
    ):
        found = report(cast.alice, upload(cast.alice, rows([value])))
        assert (found["format"], found["statistics"]["tokens"]["max"]) == (name, tokens)
