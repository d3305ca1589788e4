"""What a line must look like: every refusal with its code, the member it is about and a message that helps."""

import re
from typing import Any

import orjson
import pytest

from batches.requests import LineError, LineRules, Offer, parse_request, read_custom_id
from catalog.models import BaseModel, Price
from catalog.selectors import ServedModel
from catalog.tokens import build_counter
from tests.support.model import CHAT_TEMPLATE, byte_tokenizer
from tests.support.rows import line

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MODELS = {
    "little": BaseModel(name="little", context_length=4_096, capabilities=["chat", "completions"]),
    "vectors": BaseModel(name="vectors", context_length=4_096, capabilities=["embeddings"]),
}
PRICE = Price(input_nanos=50, cached_input_nanos=25, output_nanos=100)
OFFERS = {name: Offer(ServedModel(name=name, base=model), PRICE) for name, model in MODELS.items()}
COUNTER = build_counter(byte_tokenizer().to_str().encode(), CHAT_TEMPLATE, {})
TEMPLATE_BYTES = len("<user>\n<assistant>")


@pytest.fixture(autouse=True)
def model() -> None:
    """No database: a line is judged from itself and the models alone."""


def check(value: Any, *, endpoint: str = CHAT, data: bytes | None = None) -> Any:
    """What validation does with one line."""
    data = orjson.dumps(value) if data is None else data
    request = parse_request(data)
    read_custom_id(request)
    rules = LineRules(endpoint=endpoint, find_offer=OFFERS.get, counter_of=lambda model: COUNTER)
    return rules.check(request, size=len(data))


def body(**members: Any) -> dict[str, Any]:
    """A good line with a changed body; an ellipsis removes a member."""
    merged = {**line(1)["body"], **members}
    return line(1, body={name: value for name, value in merged.items() if value is not ...})


def completion(**members: Any) -> dict[str, Any]:
    return line(1, url=COMPLETIONS, body={"model": "little", "prompt": "Once", **members})


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


BAD_LINES = {
    "empty_object": ({}, "invalid_line", "custom_id", "'custom_id' must be a non-empty string, unique in the file"),
    "array": ([1], "invalid_line", None, "The line must be a JSON object with custom_id, method, url and body"),
    "string": ("x", "invalid_line", None, "The line must be a JSON object with custom_id, method, url and body"),
    "null": (None, "invalid_line", None, "The line must be a JSON object with custom_id, method, url and body"),
    "custom_id_number": (
        line(1, custom_id=7), "invalid_line", "custom_id", "'custom_id' must be a non-empty string, unique in the file",
    ),
    "custom_id_empty": (
        line(1, custom_id=""),
        "invalid_line", "custom_id", "'custom_id' must be a non-empty string, unique in the file",
    ),
    "custom_id_too_long": (
        line(1, custom_id="x" * 513),
        "invalid_line", "custom_id", "'custom_id' takes at most 512 characters and no NUL",
    ),
    "custom_id_nul": (
        line(1, custom_id="a\0b"), "invalid_line", "custom_id", "'custom_id' takes at most 512 characters and no NUL",
    ),
    "method": (line(1, method="GET"), "invalid_method", "method", "'method' must be \"POST\""),
    "method_lower": (line(1, method="post"), "invalid_method", "method", "'method' must be \"POST\""),
    "url_missing": (
        {name: value for name, value in line(1).items() if name != "url"},
        "invalid_url", "url", "'url' must be the batch's endpoint, \"/v1/chat/completions\"",
    ),
    "url_of_another_endpoint": (
        line(1, url=COMPLETIONS), "invalid_url", "url", "'url' must be the batch's endpoint, \"/v1/chat/completions\"",
    ),
    "body_missing": (
        {name: value for name, value in line(1).items() if name != "body"},
        "invalid_line", "body", "'body' must be an object: the request as it would be sent online",
    ),
    "body_string": (
        line(1, body="{}"), "invalid_line", "body", "'body' must be an object: the request as it would be sent online",
    ),
    "stream": (
        body(stream=True), "stream_not_allowed", "body.stream", "A batched request cannot stream; leave out 'stream'",
    ),
    "unknown_parameter": (
        body(temprature=1), "unknown_parameter", "body.temprature", "'temprature' is not a parameter of this endpoint",
    ),
    "unknown_parameter_with_nul": (
        body(**{"a\0b": 1}), "unknown_parameter", "body.a?b", "'a?b' is not a parameter of this endpoint",
    ),
    "unknown_parameter_very_long": (
        body(**{"x" * 1_000: 1}),
        "unknown_parameter", f"body.{'x' * 80}", f"'{'x' * 80}' is not a parameter of this endpoint",
    ),
    "cache_salt": (
        body(cache_salt="mine"),
        "unknown_parameter", "body.cache_salt", "'cache_salt' is not a parameter of this endpoint",
    ),
    "priority": (
        body(priority=-1), "unknown_parameter", "body.priority", "'priority' is not a parameter of this endpoint",
    ),
    "model_missing": (body(model=...), "missing_required_parameter", "body.model", "'model' is missing"),
    "model_number": (body(model=3), "missing_required_parameter", "body.model", "'model' is missing"),
    "model_unknown": (
        body(model="gpt-9"),
        "model_not_found", "body.model", "The model 'gpt-9' does not exist or this key may not use it",
    ),
    "model_with_nul": (
        body(model="a\0"), "model_not_found", "body.model", "The model 'a?' does not exist or this key may not use it",
    ),
    "model_of_another_endpoint": (
        body(model="vectors"),
        "endpoint_not_supported", "body.model", "'vectors' does not serve /v1/chat/completions",
    ),
    "messages_missing": (body(messages=...), "invalid_value", "body.messages", "'messages' must be a non-empty array"),
    "messages_empty": (body(messages=[]), "invalid_value", "body.messages", "'messages' must be a non-empty array"),
    "message_without_role": (
        body(messages=[{"content": "x"}]),
        "invalid_value", "body.messages[0]", "Each message must be an object with a 'role'",
    ),
    "message_string": (
        body(messages=[*user("x"), "y"]),
        "invalid_value", "body.messages[1]", "Each message must be an object with a 'role'",
    ),
    "content_number": (
        body(messages=user(5)),
        "invalid_type", "body.messages[0].content", "'content' must be a string or an array of parts",
    ),
    "image": (
        body(messages=user([{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}])),
        "invalid_value", "body.messages[0].content", "Only content parts of type 'text' are served",
    ),
    "part_of_odd_type": (
        body(messages=user([{"type": []}])),
        "invalid_value", "body.messages[0].content", "Only content parts of type 'text' are served",
    ),
    "max_tokens_zero": (
        body(max_tokens=0), "invalid_value", "body.max_tokens", "'max_tokens' must be a whole number of at least 1",
    ),
    "max_tokens_negative": (
        body(max_tokens=-5), "invalid_value", "body.max_tokens", "'max_tokens' must be a whole number of at least 1",
    ),
    "max_tokens_string": (
        body(max_tokens="16"), "invalid_value", "body.max_tokens", "'max_tokens' must be a whole number of at least 1",
    ),
    "max_tokens_true": (
        body(max_tokens=True), "invalid_value", "body.max_tokens", "'max_tokens' must be a whole number of at least 1",
    ),
    "max_tokens_float": (
        body(max_tokens=1.5), "invalid_value", "body.max_tokens", "'max_tokens' must be a whole number of at least 1",
    ),
    "max_completion_tokens": (
        body(max_completion_tokens=0),
        "invalid_value", "body.max_completion_tokens", "'max_completion_tokens' must be a whole number of at least 1",
    ),
    "n_too_many": (body(n=129), "invalid_value", "body.n", "'n' must be a whole number from 1 to 128"),
    "n_zero": (body(n=0), "invalid_value", "body.n", "'n' must be a whole number from 1 to 128"),
    "max_tokens_above_the_context": (
        body(messages=user("x"), max_tokens=2**63),
        "context_length_exceeded", "body",
        f"The prompt has {TEMPLATE_BYTES + 1} tokens and asks for {2**63} more; "  # noqa: ISC004  # one message
        "'little' has a context of 4096: shorten it or lower max_tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_refused_with_code_member_and_cure(name: str) -> None:
    value, code, param, message = BAD_LINES[name]
    with pytest.raises(LineError) as refusal:
        check(value)
    assert (refusal.value.code, refusal.value.param, refusal.value.message) == (code, param, message)


BAD_BYTES = {
    "cut_off": b'{"custom_id": "x", "met',
    "single_quotes": b"{'custom_id': 'x'}",
    "two_values": orjson.dumps(line(1)) * 2,
    "nul_byte": orjson.dumps(line(1)) + b"\0",
    "latin_1": '{"custom_id": "caf\xe9"}'.encode("latin-1"),
    "lone_surrogate": rb'{"custom_id": "\ud800"}',
    "not_a_number": b'{"custom_id": "x", "body": {"temperature": NaN}}',
    "deep": b'{"custom_id": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bytes_that_are_no_json_are_refused(name: str) -> None:
    with pytest.raises(LineError) as refusal:
        check(None, data=BAD_BYTES[name])
    assert (refusal.value.code, refusal.value.param) == ("invalid_json_line", None)
    assert re.fullmatch(r"The line is not valid JSON: .+ \(column \d+\)", refusal.value.message)


def test_a_line_that_could_be_read_but_not_be_sent_on_is_refused() -> None:
    with pytest.raises(LineError) as refusal:
        check(None, data=b'{"custom_id": "x", "body": %s}' % (b"[" * 300 + b"]" * 300))
    assert (refusal.value.code, refusal.value.message) == ("invalid_line", "The line nests too deeply")


@pytest.mark.parametrize(
    "value",
    [
        line(1),
        line(1, custom_id="x" * 512),
        line(1, custom_id="日本語 🙂"),
        body(stream=False),
        body(max_tokens=None),
        body(max_tokens=..., max_completion_tokens=5),
        body(n=128),
        body(messages=user([{"type": "text", "text": "hello"}])),
        body(messages=[{"role": "assistant", "content": None, "tool_calls": []}, *user("x")]),
        body(temperature=0.5, seed=1, stop=["x"], response_format={"type": "json_object"}),
        {**line(1), "extra": "members beside the four are ignored"},
    ],
    ids=str,
)
def test_a_good_line_can_run(value: Any) -> None:
    assert check(value).offer.model.name == "little"


def test_a_byte_order_mark_before_a_line_is_ignored() -> None:
    assert check(None, data=b"\xef\xbb\xbf" + orjson.dumps(line(1))).offer.model.name == "little"


@pytest.mark.parametrize("prompt", ["Once", ["Once", "upon"], [1, 2, 3], [[1, 2], [3]]])
def test_every_kind_of_prompt_is_taken(prompt: Any) -> None:
    assert check(completion(prompt=prompt), endpoint=COMPLETIONS).offer.model.name == "little"


@pytest.mark.parametrize("prompt", [None, [], 5, {}, [[]], ["a", 1], [[1], "a"], [-1], [True], [1.5]])
def test_a_prompt_that_is_none_is_refused(prompt: Any) -> None:
    with pytest.raises(LineError) as refusal:
        check(completion(prompt=prompt), endpoint=COMPLETIONS)
    assert (refusal.value.code, refusal.value.param) == ("invalid_value", "body.prompt")
    assert refusal.value.message == "'prompt' must be a string, or an array of strings or of token ids"


def test_embeddings_take_an_input() -> None:
    value = line(1, url=EMBEDDINGS, body={"model": "vectors", "input": ["a", "b"]})
    assert check(value, endpoint=EMBEDDINGS).offer.model.name == "vectors"


def test_a_prompt_may_fill_the_context_to_the_last_token() -> None:
    content = "x" * (4_096 - TEMPLATE_BYTES - 16)
    request = check(body(messages=user(content), max_tokens=16))
    assert request.input_tokens + request.output_tokens == 4_096


def test_one_token_more_is_refused() -> None:
    content = "x" * (4_096 - TEMPLATE_BYTES - 15)
    with pytest.raises(LineError) as refusal:
        check(body(messages=user(content), max_tokens=16))
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "body")
    assert refusal.value.message == (
        "The prompt has 4081 tokens and asks for 16 more; 'little' has a context of 4096: "
        "shorten it or lower max_tokens"
    )


def test_without_a_limit_one_token_of_room_is_enough() -> None:
    content = "x" * (4_096 - TEMPLATE_BYTES - 1)
    assert check(body(messages=user(content), max_tokens=...)).offer.model.name == "little"
    with pytest.raises(LineError, match="context"):
        check(body(messages=user(content + "x"), max_tokens=...))


def test_several_answers_do_not_share_the_context() -> None:
    content = "x" * 2_000
    assert check(body(messages=user(content), max_tokens=2_000, n=4)).output_tokens == 4 * 2_000


def test_an_input_to_embed_needs_no_room_for_an_answer() -> None:
    value = {"model": "vectors", "input": "x" * 4_096}
    assert check(line(1, url=EMBEDDINGS, body=value), endpoint=EMBEDDINGS).offer.model.name == "vectors"
    with pytest.raises(LineError, match="context"):
        check(line(1, url=EMBEDDINGS, body={**value, "input": "x" * 4_097}), endpoint=EMBEDDINGS)


def test_the_longest_of_several_prompts_counts() -> None:
    assert check(completion(prompt=["x" * 4_000, "y" * 4_000]), endpoint=COMPLETIONS).offer.model.name == "little"
    with pytest.raises(LineError, match="context"):
        check(completion(prompt=["x", "y" * 4_096]), endpoint=COMPLETIONS)


def test_tools_count_as_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 900}}]
    assert check(body(tools=tools)).offer.model.name == "little"
