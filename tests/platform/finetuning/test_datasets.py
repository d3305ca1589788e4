"""A dataset holds what the customer's rows say, exactly as the model reads it, and marks what is learnt."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest

from catalog.models import BaseModel
from catalog.tokens import token_counter
from common.errors import HoneError
from common.storage import open_blob
from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.model import add_model
from tests.support.training import chat, pieces, prepare, records, rows, store

HEAD = "<|im_start|>system\nBe helpful.<|im_end|>\n"


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def learnt(text: str) -> tuple[str, bool]:
    return f"{text}<|im_end|>", True


def spans_of(prepared: Any, base: BaseModel) -> list[list[tuple[str, bool]]]:
    return [pieces(base, record) for record in records(prepared.train)]


def test_of_a_conversation_every_answer_is_learnt_with_the_end_of_its_turn(cast: Cast, base: BaseModel) -> None:
    prepared = prepare(base, store(cast.alice, rows([chat("Hi", "Hello!", "Who?", "Me.")])))
    assert spans_of(prepared, base) == [
        [
            (HEAD + turn("user", "Hi") + "<|im_start|>assistant\n", False),
            learnt("Hello!"),
            ("\n" + turn("user", "Who?") + "<|im_start|>assistant\n", False),
            learnt("Me."),
        ]
    ]
    assert (prepared.problems, prepared.skipped_rows, prepared.truncated_rows, prepared.labels) == ([], 0, 0, None)


def test_tokens_before_an_answer_are_those_that_the_engine_is_asked_with(cast: Cast, base: BaseModel) -> None:
    conversation = chat("Grüße", "Gern.", "Und?", "Nichts.")["messages"]
    (record,) = records(prepare(base, store(cast.alice, rows([{"messages": conversation}]))).train)
    counter = token_counter(base)
    for (start, _), asked in zip(record["trained"], (conversation[:1], conversation[:3]), strict=True):
        text = counter.render(asked, add_generation_prompt=True)
        assert record["ids"][:start] == counter.encode([text])[0]


def test_answers_with_the_weight_0_are_read_and_not_learnt(cast: Cast, base: BaseModel) -> None:
    row = chat("Hi", "Bad.", "Again", "Good.", "More", "Fair.")
    row["messages"][1]["weight"] = 0
    row["messages"][5]["weight"] = 0.5
    prepared = prepare(base, store(cast.alice, rows([row])))
    (record,) = records(prepared.train)
    assert [text for text, is_learnt in pieces(base, record) if is_learnt] == ["Good.<|im_end|>", "Fair.<|im_end|>"]
    assert record["weights"] == [1.0, 0.5]
    assert prepared.train.trained_tokens == len("Good.") + len("Fair.") + 2


def test_everything_is_learnt_when_asked_but_answers_with_the_weight_0(cast: Cast, base: BaseModel) -> None:
    row = chat("Hi", "Bad.", "Again", "Good.")
    row["messages"][1]["weight"] = 0
    prepared = prepare(base, store(cast.alice, rows([row])), train_on="all")
    first, rest = HEAD + turn("user", "Hi") + "<|im_start|>assistant\n", "\n" + turn("user", "Again")
    assert spans_of(prepared, base) == [
        [
            ("<|im_start|>", False),  # nothing comes before the first token from which it could be predicted
            (first.removeprefix("<|im_start|>"), True),
            ("Bad.<|im_end|>", False),
            (rest + "<|im_start|>assistant\nGood.<|im_end|>\n", True),
        ]
    ]


def test_a_completion_is_learnt_without_a_template_and_with_an_end(cast: Cast, base: BaseModel) -> None:
    prepared = prepare(base, store(cast.alice, rows([{"prompt": "1 + 1 =", "completion": " 2"}])))
    assert spans_of(prepared, base) == [[("1 + 1 =", False), learnt(" 2")]]


def test_a_preference_has_one_prompt_and_two_answers(cast: Cast, base: BaseModel) -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Hello!"}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    prepared = prepare(base, store(cast.alice, rows([row])), method="dpo")
    (record,) = records(prepared.train)
    texts = {name: token_counter(base).decode(record[name]) for name in ("prompt", "chosen", "rejected")}
    prompt = HEAD + turn("user", "Hi") + "<|im_start|>assistant\n"
    assert texts == {"prompt": prompt, "chosen": "Hello!<|im_end|>", "rejected": "What?<|im_end|>"}
    tokens = {name: len(record[name]) for name in texts}
    assert prepared.train.tokens == 2 * tokens["prompt"] + tokens["chosen"] + tokens["rejected"]
    assert prepared.train.trained_tokens == tokens["chosen"] + tokens["rejected"] == 7 + 6


@pytest.mark.parametrize(
    ("row", "method"),
    [(chat("Hi", "Hello!"), "dpo"), ({"input": {"messages": [{"role": "user", "content": "Hi"}]},
      "preferred_output": [{"role": "assistant", "content": "a"}],
      "non_preferred_output": [{"role": "assistant", "content": "b"}]}, "supervised")],
)  # fmt: skip
def test_a_method_refuses_rows_of_the_other(cast: Cast, base: BaseModel, row: Any, method: str) -> None:
    (problem,) = prepare(base, store(cast.alice, rows([row])), method=method).problems
    assert (problem.line, problem.code, problem.param) == (1, "method_mismatch", "training_file")


def test_what_is_too_long_is_cut_and_what_teaches_nothing_is_skipped(cast: Cast, base: BaseModel) -> None:
    prompt = HEAD + turn("user", "Hi") + "<|im_start|>assistant\n"
    length = len(token_counter(base).encode([prompt])[0])
    content = rows([chat("Hi", "x" * 10), chat("Hi" * 100, "y"), chat("Hi", "ab")])
    prepared = prepare(base, store(cast.alice, content), max_seq_length=length + 3)
    assert spans_of(prepared, base) == [[(prompt, False), ("xxx", True)], [(prompt, False), learnt("ab")]]
    assert [record["line"] for record in records(prepared.train)] == [1, 3]
    assert (prepared.truncated_rows, prepared.skipped_rows, prepared.train.rows) == (2, 1, 2)


def test_a_file_of_which_nothing_is_left_is_a_problem(cast: Cast, base: BaseModel) -> None:
    before = blobs()
    file = store(cast.alice, rows([chat("Hi" * 100, "y")]))
    prepared = prepare(base, file, max_seq_length=50)
    assert [(problem.line, problem.code) for problem in prepared.problems] == [(None, "nothing_to_train")]
    assert (prepared.train.rows, prepared.train.storage_key, prepared.skipped_rows) == (0, "", 1)
    assert blobs() - before == {file.storage_key}


def test_bad_rows_of_both_files_are_named_and_nothing_is_kept(cast: Cast, base: BaseModel) -> None:
    before = blobs()
    training = store(cast.alice, rows([chat("Hi", "Hello!"), {"messages": []}]))
    validation = store(cast.alice, b"{\n" + rows([chat("Hi", "Hello!")]))
    prepared = prepare(base, training, validation_file=validation)
    assert [(problem.param, problem.line, problem.pointer, problem.code) for problem in prepared.problems] == [
        ("training_file", 2, "/messages", "empty_messages"),
        ("validation_file", 1, "", "invalid_json_line"),
    ]
    assert blobs() - before == {training.storage_key, validation.storage_key}


def test_reading_stops_after_a_hundred_bad_rows(cast: Cast, base: BaseModel) -> None:
    prepared = prepare(base, store(cast.alice, b"{}\n" * 150))
    assert [problem.line for problem in prepared.problems] == list(range(1, 101))


def test_the_same_request_gives_the_same_bytes_each_time_in_blobs_of_its_own(cast: Cast, base: BaseModel) -> None:
    file = store(cast.alice, rows([chat(f"Question {number}", f"Answer {number}") for number in range(40)]))
    first = prepare(base, file, validation_fraction=0.25)
    again = prepare(base, file, validation_fraction=0.25)
    parts = [[prepared.train, prepared.validation, prepared.evaluation] for prepared in (first, again)]
    digests = [[part.sha256 for part in found if part is not None] for found in parts]
    assert (digests[0], len(digests[0])) == (digests[1], 3)
    keys = {part.storage_key for found in parts for part in found if part is not None}
    assert len(keys) == 6
    assert keys <= blobs()
    with open_blob(first.train.storage_key) as stored:
        content = stored.read()
    assert first.train.sha256 == hashlib.sha256(content).hexdigest()
    assert first.train.bytes == len(content)
    assert first.train.storage_key.startswith(f"{cast.alice.organization.id.hex}/datasets/")
    assert prepare(base, file, validation_fraction=0.25, seed=8).train.sha256 != first.train.sha256


def test_a_share_is_held_out_by_content(cast: Cast, base: BaseModel) -> None:
    values = [chat(f"Question {number % 200}", f"Answer {number % 200}") for number in range(400)]
    prepared = prepare(base, store(cast.alice, rows(values)), validation_fraction=0.25)
    train, held_out = ({record["line"] for record in records(part)} for part in (prepared.train, prepared.validation))
    assert train | held_out == set(range(1, 401))
    assert train & held_out == set()
    assert {(line + 199) % 400 + 1 for line in held_out} == held_out  # twins stay together
    assert 60 < len(held_out) < 140


def test_held_out_rows_become_questions_with_the_answers_that_are_expected(cast: Cast, base: BaseModel) -> None:
    table = b"text,label,from\nFine!,positive,web\nBad.,negative,app\nFine!,positive,app\n"
    training = store(cast.alice, table, filename="train.csv")
    prepared = prepare(
        base, training, recipe="sentiment", validation_file=store(cast.alice, table, filename="held.csv"),
        column_mapping={"slice": "from"},
    )  # fmt: skip
    evaluation = records(prepared.evaluation)
    validation = records(prepared.validation)
    assert [(row["line"], row["reference"], row["slice"]) for row in evaluation] == [
        (2, "positive", "web"), (3, "negative", "app"), (4, "positive", "app"),
    ]  # fmt: skip
    for row, tokens in zip(evaluation, validation, strict=True):
        assert [message["role"] for message in row["messages"]] == ["system", "user"]
        assert row["choices"] == ["negative", "neutral", "positive"]
        assert (row["ids"], row["trained"]) == (tokens["ids"], tokens["trained"])
    assert evaluation[0]["max_tokens"] == 2 * len("positive") + 16
    assert prepared.labels == ["negative", "neutral", "positive"]


def test_labels_are_those_of_the_data_where_the_recipe_names_none(cast: Cast, base: BaseModel) -> None:
    table = b"text,label\nOne,b\nTwo, a \nThree,b\n"
    prepared = prepare(base, store(cast.alice, table, filename="t.csv"), recipe="text-classification")
    assert prepared.labels == ["a", "b"]
    assert [text for text, is_learnt in spans_of(prepared, base)[1] if is_learnt] == ["a<|im_end|>"]


def test_no_more_rows_are_evaluated_than_asked_and_they_keep_their_order(cast: Cast, base: BaseModel) -> None:
    values = rows([chat(f"Question {number}", f"Answer {number}") for number in range(50)])
    training, validation = store(cast.alice, rows([chat("Hi", "Hello!")])), store(cast.alice, values)
    prepared = prepare(base, training, validation_file=validation, max_evaluation_rows=10)
    lines = [record["line"] for record in records(prepared.evaluation)]
    assert len(lines) == 10
    assert lines == sorted(lines) != list(range(1, 11))
    assert prepared.validation is not None
    assert prepared.validation.rows == 50


def test_an_answer_to_a_schema_carries_it_to_the_evaluation(cast: Cast, base: BaseModel) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    content = rows([{"text": "Seven", "fields": {"n": 7}}, {"text": "Eight", "fields": '{"n" : 8}'}])
    training = store(cast.alice, content)
    prepared = prepare(
        base, training, recipe="extraction", column_mapping={"json_schema": schema}, validation_file=training
    )
    assert [(row["reference"], row["json_schema"]) for row in records(prepared.evaluation)] == [
        ('{"n":7}', schema), ('{"n":8}', schema),
    ]  # fmt: skip


def test_a_mapping_turns_columns_into_a_conversation(cast: Cast, base: BaseModel) -> None:
    table = b"frage;antwort;art\nWie?;So.;kurz\n"
    mapping = {
        "messages": [
            {"role": "system", "content": "Be {{art}}."},
            {"role": "user", "content": "Q: {{frage}}"},
            {"role": "assistant", "content": "{{antwort}}"},
        ],
        "delimiter": ";",
    }
    prepared = prepare(base, store(cast.alice, table, filename="t.csv"), column_mapping=mapping)
    prompt = turn("system", "Be kurz.") + turn("user", "Q: Wie?") + "<|im_start|>assistant\n"
    assert spans_of(prepared, base) == [[(prompt, False), learnt("So.")]]


def test_columns_of_a_recipe_may_have_other_names(cast: Cast, base: BaseModel) -> None:
    table = b"tweet\tmood\nFine!\tpositive\n"
    mapping = {"columns": {"text": "tweet", "label": "mood"}}
    prepared = prepare(base, store(cast.alice, table, filename="t.tsv"), recipe="sentiment", column_mapping=mapping)
    ((prompt, _), answer) = spans_of(prepared, base)[0]
    assert "Fine!" in prompt
    assert answer == learnt("positive")


def test_a_recipe_puts_its_instructions_before_conversations_without_any(cast: Cast, base: BaseModel) -> None:
    own = chat("Hi", "Hello!")
    own["messages"].insert(0, {"role": "system", "content": "Be curt."})
    prepared = prepare(base, store(cast.alice, rows([chat("Hi", "Hello!"), own])), recipe="customer-service")
    heads = [row[0][0].split("<|im_end|>")[0] for row in spans_of(prepared, base)]
    assert heads[0].startswith("<|im_start|>system\nYou work in customer service.")
    assert heads[1] == "<|im_start|>system\nBe curt."


def test_tools_are_refused_where_the_template_has_no_place_for_them(cast: Cast, base: BaseModel) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    (problem,) = prepare(base, store(cast.alice, rows([chat("Hi", "Hello!", tools=tools)]))).problems
    assert (problem.code, problem.pointer) == ("tools_not_supported", "/tools")


def test_tools_are_rendered_as_the_engine_renders_them(cast: Cast, tmp_path: Path) -> None:
    template = (
        "{{ tools | tojson }}\n{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% for call in m.tool_calls %}{{ call.function.name }}({{ call.function.arguments.city }}){% endfor %}</s>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    base = add_model(tmp_path / "tools", name="tools", chat_template=template, specials=("</s>",))
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "Sun?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "yes"},
        {"role": "assistant", "content": "Yes."},
    ]
    prepared = prepare(base, store(cast.alice, rows([{"messages": messages, "tools": tools}])))
    head = orjson.loads(orjson.dumps(tools))
    assert str(head).replace("'", '"') in spans_of(prepared, base)[0][0][0]
    assert [text for text, is_learnt in spans_of(prepared, base)[0] if is_learnt] == ["look(Rome)</s>", "Yes.</s>"]


def test_a_template_that_rewrites_earlier_answers_is_refused_unless_they_are_not_learnt(
    cast: Cast, tmp_path: Path
) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}(thinks){% endif %}"
        "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    base = add_model(tmp_path / "thinking", name="thinking", chat_template=template, specials=("</s>",))
    row = chat("Hi", "Hello!", "Who?", "Me.")
    (problem,) = prepare(base, store(cast.alice, rows([row]))).problems
    assert (problem.code, problem.pointer) == ("template_unsupported", "/messages/1")
    assert "weight 0" in problem.fix
    row["messages"][1]["weight"] = 0
    prepared = prepare(base, store(cast.alice, rows([row])))
    assert [text for text, is_learnt in spans_of(prepared, base)[0] if is_learnt] == ["(thinks)Me.</s>"]


def test_a_template_that_refuses_a_conversation_says_why(cast: Cast, tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}x"
    base = add_model(tmp_path / "strict", name="strict", chat_template=template)
    row = {"messages": [{"role": "system", "content": "a"}, *chat("Hi", "Hello!")["messages"]]}
    (problem,) = prepare(base, store(cast.alice, rows([row]))).problems
    assert problem.code == "template_refused"
    assert "No system role" in problem.message


def test_a_model_that_does_not_end_turns_learns_to_end_the_text(cast: Cast, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"  # noqa: E501
    base = add_model(tmp_path / "plain", name="plain", chat_template=template, specials=("</s>",))
    prepared = prepare(base, store(cast.alice, rows([chat("Hi", "Hello!")])))
    assert spans_of(prepared, base) == [[("user: Hi\nassistant: ", False), ("Hello!\n</s>", True)]]


@pytest.mark.parametrize(
    ("mapping", "param"),
    [
        ({"colour": "red"}, "column_mapping.colour"),
        ({"messages": []}, "column_mapping.messages"),
        ({"prompt": "{{a}}"}, "column_mapping.completion"),
        ({"columns": {"text": 1}}, "column_mapping.columns"),
        ({"columns": {"colour": "red"}}, "column_mapping.columns"),
        ({"choices": []}, "column_mapping.choices"),
        ({"delimiter": ",,"}, "column_mapping.delimiter"),
        ({"json_schema": {"type": "colour"}}, "column_mapping.json_schema"),
        ({"json_schema": {"$ref": "http://127.0.0.1:1/schema"}}, "column_mapping.json_schema"),
        ({"json_schema": {"pattern": "(a+)+\\1$"}}, "column_mapping.json_schema"),
    ],
)
def test_a_mapping_that_is_none_is_refused_by_name(
    cast: Cast, base: BaseModel, mapping: dict[str, Any], param: str
) -> None:
    file = store(cast.alice, b"text,label\na,b\n", filename="t.csv")
    with pytest.raises(HoneError) as caught:
        prepare(base, file, recipe="text-classification", column_mapping=mapping)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
