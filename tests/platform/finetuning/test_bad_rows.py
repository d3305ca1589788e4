"""Every kind of bad training data is named by its line, the place in it, a code, and what to do about it."""

from typing import Any

import orjson
import pytest

from catalog.models import BaseModel
from common.errors import DATA_CODES, ROW_CODES
from finetuning.examples import check_row
from tests.support.cast import Cast
from tests.support.training import chat, prepare, rows, store

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello!"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
PREFERENCE = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [CALLING]}


def messages(*values: Any, **members: Any) -> bytes:
    return orjson.dumps({"messages": list(values), **members})


def preference(**changes: Any) -> bytes:
    other = [{"role": "assistant", "content": "What?"}]
    return orjson.dumps({**PREFERENCE, "non_preferred_output": other, **changes})


BAD_ROWS: dict[str, tuple[bytes, str, str]] = {
    # what is wrong -> the line, the pointer, the code
    "cut off": (b'{"messages": [', "", "invalid_json_line"),
    "trailing comma": (b'{"messages": [],}', "", "invalid_json_line"),
    "latin-1": ('{"prompt": "Grüße", "completion": "x"}'.encode("latin-1"), "", "invalid_encoding"),
    "no object": (b'["messages"]', "", "invalid_row"),
    "too deep": (b'{"messages":' + b"[" * 300 + b"]" * 300 + b"}", "", "invalid_row"),
    "no format": (b'{"text": "Hi", "label": "x"}', "", "unknown_row_format"),
    "an unknown member": (messages(USER, ANSWER, colour="red"), "/colour", "unknown_field"),
    "messages are no array": (b'{"messages": "Hi"}', "/messages", "invalid_type"),
    "no message": (messages(), "/messages", "empty_messages"),
    "a message that is a text": (messages(USER, "Hello!"), "/messages/1", "invalid_message"),
    "a message without a role": (messages({"content": "Hi"}, ANSWER), "/messages/0/role", "invalid_role"),
    "an unknown role": (messages({"role": "bot", "content": "Hi"}, ANSWER), "/messages/0/role", "invalid_role"),
    "an unknown member of a message": (messages({**USER, "a/b~c": 1}, ANSWER), "/messages/0/a~1b~0c", "unknown_field"),
    "instructions in the middle": (
        messages(USER, {"role": "system", "content": "x"}, ANSWER), "/messages/1/role", "system_not_first",
    ),
    "no content": (messages({"role": "user"}, ANSWER), "/messages/0/content", "missing_content"),
    "an empty answer": (messages(USER, {**ANSWER, "content": " \n"}), "/messages/1/content", "empty_content"),
    "content that is a number": (messages(USER, {**ANSWER, "content": 7}), "/messages/1/content", "invalid_type"),
    "an image": (
        messages({**USER, "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}, ANSWER),
        "/messages/0/content/1", "unsupported_content",
    ),
    "a NUL": (messages({**USER, "content": "a\0b"}, ANSWER), "/messages/0/content", "invalid_characters"),
    "no answer": (messages(USER), "/messages", "no_assistant_message"),
    "the question comes last": (messages(USER, ANSWER, USER), "/messages/2", "last_not_assistant"),
    "a weight of 2": (messages(USER, {**ANSWER, "weight": 2}), "/messages/1/weight", "invalid_weight"),
    "a weight that is a text": (messages(USER, {**ANSWER, "weight": "1"}), "/messages/1/weight", "invalid_weight"),
    "a weight of a question": (messages({**USER, "weight": 1}, ANSWER), "/messages/0/weight", "invalid_weight"),
    "nothing is learnt": (messages(USER, {**ANSWER, "weight": 0}), "/messages", "nothing_trained"),
    "functions": (messages(USER, {**ANSWER, "function_call": {}}), "/messages/1/function_call", "deprecated_functions"),
    "tools that are no array": (messages(USER, ANSWER, tools={}), "/tools", "invalid_tools"),
    "a tool without a name": (
        messages(USER, ANSWER, tools=[{"type": "function", "function": {}}]), "/tools/0", "invalid_tools",
    ),
    "parameters that are no schema": (
        messages(USER, ANSWER, tools=[{"type": "function", "function": {"name": "look", "parameters": []}}]),
        "/tools/0/function/parameters", "invalid_tools",
    ),
    "calls that are no array": (
        messages(USER, {"role": "assistant", "tool_calls": {}}), "/messages/1/tool_calls", "invalid_tool_call",
    ),
    "a call without an id": (
        messages(USER, {"role": "assistant", "tool_calls": [{**CALL, "id": None}]}, tools=[TOOL]),
        "/messages/1/tool_calls/0", "invalid_tool_call",
    ),
    "arguments that are an object": (
        messages(
            USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "look", "arguments": {}}}]},
            tools=[TOOL],
        ),
        "/messages/1/tool_calls/0/function/arguments", "invalid_tool_arguments",
    ),
    "arguments that are no JSON": (
        messages(
            USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "look", "arguments": "{"}}]},
            tools=[TOOL],
        ),
        "/messages/1/tool_calls/0/function/arguments", "invalid_tool_arguments",
    ),
    "a call of a tool that is not there": (
        messages(USER, CALLING), "/messages/1/tool_calls/0/function/name", "unknown_tool",
    ),
    "a tool's answer that nobody asked for": (
        messages(USER, {"role": "tool", "content": "x", "tool_call_id": "call_9"}, ANSWER),
        "/messages/1/tool_call_id", "unmatched_tool_call",
    ),
    "a prompt without a completion": (b'{"prompt": "Hi"}', "/completion", "invalid_type"),
    "an empty completion": (b'{"prompt": "Hi", "completion": ""}', "/completion", "empty_content"),
    "a prompt that is an array": (b'{"prompt": ["Hi"], "completion": "x"}', "/prompt", "invalid_type"),
    "an input without messages": (preference(input={}), "/input", "invalid_type"),
    "an input with a question less": (
        preference(input={"messages": [USER, ANSWER]}), "/input/messages/1", "last_not_user",
    ),
    "an input with more": (preference(input={"messages": [USER], "seed": 1}), "/input/seed", "unknown_field"),
    "two wanted outputs": (preference(preferred_output=[ANSWER, ANSWER]), "/preferred_output", "invalid_output"),
    "an output of the user": (preference(preferred_output=[USER]), "/preferred_output/0", "last_not_assistant"),
    "outputs that are the same": (
        preference(non_preferred_output=[ANSWER]), "/non_preferred_output", "identical_outputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_with_its_line_its_place_and_what_to_do(cast: Cast, base: BaseModel, kind: str) -> None:
    row, where, code = BAD_ROWS[kind]
    content = b"\n" + rows([chat("Hi", "Hello!")]) + row + b"\n"
    method = "dpo" if b'"input"' in row else "supervised"
    problems = prepare(base, store(cast.alice, content), method=method).problems
    (problem,) = [problem for problem in problems if problem.line == 3]
    assert (problem.pointer, problem.code) == (where, code)
    assert code in DATA_CODES | ROW_CODES or code == "invalid_type"
    assert min(len(problem.message), len(problem.fix)) > 10


def test_everything_that_is_wrong_with_a_row_is_named_at_once() -> None:
    row = {"messages": [{"role": "bot", "content": ""}, {"role": "assistant", "content": 1}], "x": 1}
    example, errors = check_row(row)
    assert example is None
    assert [(error.pointer, error.code) for error in errors] == [
        ("/x", "unknown_field"),
        ("/messages/0/role", "invalid_role"),
        ("/messages/1/content", "invalid_type"),
    ]


def test_a_conversation_with_tools_is_fine() -> None:
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "yes"}
    row = {"messages": [USER, CALLING, answer, ANSWER], "tools": [TOOL], "parallel_tool_calls": False}
    example, errors = check_row(row)
    assert errors == []
    assert example is not None


TABLES: dict[str, tuple[bytes, dict[str, Any], list[tuple[int | None, str, str]]]] = {
    # the file, changes of the request, what is found
    "a cell too many": (
        b"text,label\nFine,positive\nBad, really,negative\n", {}, [(3, "", "wrong_column_count")],
    ),
    "a quote that is not closed": (
        b'text,label\n"Fine,positive\nBad,negative\nSo,neutral\n', {}, [(2, "", "invalid_csv_row")],
    ),
    "a quote within a quoted text": (
        b'text,label\n"He said "no"",negative\nBad,negative\n', {}, [(2, "", "invalid_csv_row")],
    ),
    "a text over several lines before": (
        b'text,label\n"One\ntwo\nthree",positive\nBad,angry\n', {}, [(5, "/label", "unknown_label")],
    ),
    "latin-1": ("text,label\nGrüße,positive\n".encode("latin-1"), {}, [(2, "", "invalid_encoding")]),
    "utf-16": ("text,label\nFine,positive\n".encode("utf-16"), {}, [(None, "", "invalid_encoding")]),
    "an unknown label": (b"text,label\nFine,Positive\n", {}, [(2, "/label", "unknown_label")]),
    "an empty cell": (b"text,label\n,positive\n", {}, [(2, "/text", "empty_content")]),
    "renamed": (
        b"tweet,mood\nFine,good\n", {"column_mapping": {"columns": {"text": "tweet", "label": "mood"}}},
        [(2, "/mood", "unknown_label")],
    ),
    "a column that is missing": (b"text,mood\nFine,positive\n", {}, [(None, "", "missing_column")]),
    "a mapped column that is missing": (
        b"text,label\nFine,positive\n", {"column_mapping": {"columns": {"text": "tweet"}}},
        [(None, "", "missing_column")],
    ),
    "nothing but names": (b"text,label\n", {}, [(None, "", "empty_file")]),
    "a column twice": (b"text,text\na,b\n", {}, [(None, "", "invalid_header")]),
    "another delimiter": (b"text;label\na;positive\n", {}, [(None, "", "invalid_header")]),
    "names that say nothing": (b"a,b\n1,2\n", {"recipe": None}, [(None, "", "mapping_required")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_bad_row_of_a_table_is_named_by_its_column(cast: Cast, base: BaseModel, kind: str) -> None:
    content, changes, expected = TABLES[kind]
    file = store(cast.alice, content, filename="table.csv")
    problems = prepare(base, file, **{"recipe": "sentiment", **changes}).problems
    assert [(problem.line, problem.pointer, problem.code) for problem in problems] == expected


ANSWERS = [
    ({"text": "a", "fields": "no JSON"}, "/fields", "invalid_json_answer"),
    ({"text": "a", "fields": [1]}, "/fields", "invalid_json_answer"),
    ({"text": "a", "fields": {"n": "one"}}, "/fields", "schema_mismatch"),
    ({"text": "a"}, "/fields", "missing_column"),
    ({"messages": [USER, {"role": "assistant", "content": '{"n": "one"}'}]}, "/messages/1/content", "schema_mismatch"),
]


@pytest.mark.parametrize(("row", "where", "code"), ANSWERS)
def test_an_answer_that_should_be_json_is_held_to_its_schema(
    cast: Cast, base: BaseModel, row: dict[str, Any], where: str, code: str
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    file = store(cast.alice, rows([row]))
    (problem,) = prepare(base, file, recipe="extraction", column_mapping={"json_schema": schema}).problems
    assert (problem.line, problem.pointer, problem.code) == (1, where, code)


def test_a_place_in_a_conversation_is_the_customers_although_instructions_were_put_before_it(
    cast: Cast, base: BaseModel
) -> None:
    row = {"messages": [USER, {**ANSWER, "weight": 3}]}
    (problem,) = prepare(base, store(cast.alice, rows([row])), recipe="customer-service").problems
    assert (problem.pointer, problem.code) == ("/messages/1/weight", "invalid_weight")


def test_a_file_keeps_to_one_format(cast: Cast, base: BaseModel) -> None:
    content = rows([chat("Hi", "Hello!"), {"prompt": "a", "completion": "b"}])
    (problem,) = prepare(base, store(cast.alice, content)).problems
    assert (problem.line, problem.code) == (2, "mixed_formats")


def test_labels_without_number_are_no_labels(cast: Cast, base: BaseModel) -> None:
    content = rows([{"text": "a", "label": str(number)} for number in range(201)])
    (problem,) = prepare(base, store(cast.alice, content), recipe="text-classification").problems
    assert (problem.line, problem.code) == (201, "too_many_labels")
