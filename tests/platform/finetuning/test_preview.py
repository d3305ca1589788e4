"""The preview shows what is trained, token by token, before anybody pays for it."""

from typing import Any

import pytest

from catalog.models import BaseModel
from finetuning import preview
from finetuning.recipes import all_recipes
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.cast import MODEL, ApiClient, Cast
from tests.support.facts import count
from tests.support.tables import rows_of
from tests.support.training import chat, pieces, prepare, records, rows, store, upload


def show(client: ApiClient, **fields: Any) -> Any:
    return client.post("/v1/fine_tuning/preview", {"model": MODEL, **fields})


def test_the_pieces_are_those_of_the_prepared_dataset(cast: Cast, base: BaseModel) -> None:
    row = chat("Hi", "No.", "Grüße", "Yes.")
    row["messages"][1]["weight"] = 0.5
    content = rows([row])
    shown = show(cast.alice.client, training_file=upload(cast.alice, content)).json()
    (record,) = records(prepare(base, store(cast.alice, content)).train)
    assert (shown["object"], shown["model"], shown["problem"]) == ("fine_tuning.preview", MODEL, None)
    (data,) = shown["data"]
    (sequence,) = data["sequences"]
    assert [(piece["text"], piece["is_trained"]) for piece in sequence] == pieces(base, record)
    assert [piece["weight"] for piece in sequence] == [0.0, 0.5, 0.0, 1.0]
    assert [token for piece in sequence for token in piece["token_ids"]] == record["ids"]
    assert sequence[1]["token_texts"] == ["N", "o", ".", "<|im_end|>"]
    assert (data["line"], data["tokens"], data["trained_tokens"]) == (1, len(record["ids"]), 4 + 5)
    assert (data["is_truncated"], data["problems"]) == (False, [])


def test_rows_need_no_file_and_nothing_is_kept(cast: Cast, base: BaseModel) -> None:
    before = rows_of(cast.alice.organization.id)
    shown = show(cast.alice.client, rows=[{"text": "Fine!", "label": "positive"}], recipe="sentiment").json()
    assert [piece["text"] for piece in shown["data"][0]["sequences"][0] if piece["is_trained"]] == [
        "positive<|im_end|>"
    ]
    assert rows_of(cast.alice.organization.id) == before
    assert count("files_storedfile") == 0


def test_bad_rows_are_shown_between_the_good_ones(cast: Cast, base: BaseModel) -> None:
    shown = show(cast.alice.client, rows=[chat("Hi", "Hello!"), {"messages": []}, chat("So?", "So.")]).json()
    assert [(row["line"], [problem["code"] for problem in row["problems"]]) for row in shown["data"]] == [
        (1, []), (2, ["empty_messages"]), (3, []),
    ]  # fmt: skip
    assert [len(row["sequences"]) for row in shown["data"]] == [1, 0, 1]


def test_a_preference_shows_both_answers(cast: Cast, base: BaseModel) -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello!"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    (data,) = show(cast.alice.client, rows=[row], method="dpo").json()["data"]
    assert [[piece["text"] for piece in sequence if piece["is_trained"]] for sequence in data["sequences"]] == [
        ["Hello!<|im_end|>"], ["What?<|im_end|>"],
    ]  # fmt: skip
    (data,) = show(cast.alice.client, rows=[row]).json()["data"]
    assert [problem["code"] for problem in data["problems"]] == ["method_mismatch"]


def test_options_are_those_of_training(cast: Cast, base: BaseModel) -> None:
    values = [chat("Hi", "Hello!")]
    everything = show(cast.alice.client, rows=values, train_on="all").json()["data"][0]
    assert everything["trained_tokens"] == everything["tokens"] - 1
    short = show(cast.alice.client, rows=values, max_seq_length=everything["tokens"] - 3).json()["data"][0]
    assert short["is_truncated"]
    assert short["tokens"] == everything["tokens"] - 3


def test_so_many_rows_are_shown_and_not_too_many_tokens(
    cast: Cast, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = upload(cast.alice, rows([chat("Hi", "Hello!")] * 20))
    assert [row["line"] for row in show(cast.alice.client, training_file=file_id).json()["data"]] == list(range(1, 11))
    assert len(show(cast.alice.client, training_file=file_id, limit=3).json()["data"]) == 3
    monkeypatch.setattr(preview, "MAX_TOKENS", 60)
    assert len(show(cast.alice.client, training_file=file_id).json()["data"]) == 2


def test_a_table_without_a_recipe_says_what_is_missing(cast: Cast, base: BaseModel) -> None:
    sample = all_recipes()["sentiment"].sample
    shown = show(cast.alice.client, training_file=upload(cast.alice, sample.read_bytes(), filename=sample.name)).json()
    assert (shown["data"], shown["problem"]["code"]) == ([], "mapping_required")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "invalid_value", "training_file"),
        ({"rows": [{}], "training_file": "file-1"}, "invalid_value", "training_file"),
        ({"rows": []}, "invalid_value", "rows"),
        ({"rows": [{}] * 51}, "invalid_value", "rows"),
        ({"rows": [{}], "limit": 51}, "invalid_value", "limit"),
        ({"rows": [{}], "colour": "red"}, "unknown_parameter", "colour"),
        ({"rows": [{}], "model": "unknown"}, "model_not_found", "model"),
        ({"rows": [{}], "recipe": "unknown"}, "invalid_value", "recipe"),
        ({"rows": [{}], "column_mapping": {"x": 1}}, "invalid_value", "column_mapping.x"),
        ({"training_file": "file-1"}, "not_found", "training_file"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    cast: Cast, base: BaseModel, fields: dict[str, Any], code: str, param: str
) -> None:
    error = show(cast.alice.client, **fields).json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_a_file_for_another_purpose_is_refused(cast: Cast, base: BaseModel) -> None:
    file_id = upload(cast.alice, b"{}\n", purpose="batch")
    assert show(cast.alice.client, training_file=file_id).json()["error"]["code"] == "invalid_purpose"


def test_a_strangers_file_is_not_found(cast: Cast, base: BaseModel) -> None:
    file_id = upload(cast.alice, rows([chat("Hi", "Hello!")]))
    answer = show(cast.charlie.client, training_file=file_id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert show(cast.alice.client, training_file=file_id).status_code == 200


def test_a_key_needs_the_scope(cast: Cast, base: BaseModel) -> None:
    with tenant_scope(cast.alice.organization.id):
        reader = create_api_key(
            project=cast.alice.project, name="reader", actor="system", scopes=frozenset({"fine_tuning.read"})
        )
    client = ApiClient(reader.token)
    assert client.get("/v1/fine_tuning/recipes").status_code == 200
    answer = show(client, rows=[chat("Hi", "Hello!")])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
