"""What a line of a batch must look like, decided from the line alone and the models it may name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from batches.prefixes import prefix_key
from catalog.models import BaseModel, Price
from catalog.selectors import ServedModel
from catalog.tokens import TokenCounter
from files.lines import parse_line

MAX_CUSTOM_ID = 512

ENDPOINTS: dict[str, BaseModel.Capability] = {
    "/v1/chat/completions": BaseModel.Capability.CHAT,
    "/v1/completions": BaseModel.Capability.COMPLETIONS,
    "/v1/embeddings": BaseModel.Capability.EMBEDDINGS,
}

_SAMPLING = frozenset(
    {
        "model", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs", "logit_bias", "user",
        "metadata",
        "presence_penalty", "frequency_penalty", "stream", "store", "service_tier", "response_format",
        "safety_identifier", "prompt_cache_key",
        # vLLM's own sampling parameters
        "top_k", "min_p", "repetition_penalty", "length_penalty", "stop_token_ids", "include_stop_str_in_output",
        "ignore_eos", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "structured_outputs",
        "prompt_logprobs", "truncate_prompt_tokens", "bad_words", "add_special_tokens",
    }
)  # fmt: skip
_FIELDS: dict[str, frozenset[str]] = {
    "/v1/chat/completions": _SAMPLING
    | {
        "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
        "reasoning_effort", "verbosity", "modalities", "chat_template_kwargs", "add_generation_prompt",
        "continue_final_message", "include_reasoning",
    },
    "/v1/completions": _SAMPLING | {"prompt", "echo", "suffix", "best_of"},
    "/v1/embeddings": frozenset({"model", "input", "encoding_format", "dimensions", "user", "truncate_prompt_tokens"}),
}  # fmt: skip
"""Members a body may have. An explicit list: an engine's parameters reach further than a customer may."""

_COUNTS: dict[str, int | None] = {"max_tokens": None, "max_completion_tokens": None, "n": 128, "best_of": 20}
"""Members that are whole numbers of at least 1, and their greatest value."""
_TEMPLATE_TOKENS = 512
"""More than a chat template adds by itself, for example with a default system prompt."""
_MESSAGE_TOKENS = 64
"""More than a chat template adds per message."""
_TOOLS_FACTOR = 4
"""Templates print tools with indentation."""
_DEFAULT_OUTPUT_TOKENS = 256
"""Taken for scheduling where a request names no limit; money is never computed from it."""


@dataclass(frozen=True)
class LineError(Exception):
    """Why a line cannot run: a published code, a message with the cure, the member it is about."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class Offer:
    """A model that the key may use, and what it costs in the batch's completion window."""

    served: ServedModel
    price: Price

    @property
    def model(self) -> BaseModel:
        """The model itself, or the one below the adapter."""
        return self.served.base


@dataclass(frozen=True)
class LineRequest:
    """A line that can run: what it asks of an engine, and what it can cost at most (nano-USD)."""

    offer: Offer
    input_tokens: int
    """Estimated where the exact number decides nothing."""
    output_tokens: int
    bound_nanos: int
    prefix: bytes
    """Sorts rows that begin alike next to one another (:func:`batches.prefixes.prefix_key`)."""


@dataclass(frozen=True)
class _Prompt:
    """Tokens of all prompts of a line together."""

    count: int
    estimate: int
    bound: int


@dataclass(frozen=True)
class LineRules:
    """What the lines of one batch are held to."""

    endpoint: str
    find_offer: Callable[[str], Offer | None]
    counter_of: Callable[[BaseModel], TokenCounter]

    def check(self, value: dict[str, Any], *, size: int) -> LineRequest:
        """The request of a parsed line of ``size`` bytes; raises :class:`LineError`."""
        if value.get("method") != "POST":
            raise LineError("invalid_method", "'method' must be \"POST\"", "method")
        if value.get("url") != self.endpoint:
            raise LineError("invalid_url", f"'url' must be the batch's endpoint, \"{self.endpoint}\"", "url")
        body = value.get("body")
        if not isinstance(body, dict):
            raise LineError("invalid_line", "'body' must be an object: the request as it would be sent online", "body")
        offer = self._check_body(body)
        model, price = offer.model, offer.price
        prompt = self._check_context(body, model, size)
        # best_of answers are made, and may be counted, although n of them are returned.
        answers = prompt.count * max(body.get("n") or 1, body.get("best_of") or 1)
        if self.endpoint == "/v1/embeddings":
            answers = 0
        limit = _output_limit(body)
        most_output = min(limit or model.context_length, model.context_length) * answers
        dearest_input = max(price.input_nanos, price.cached_input_nanos)
        return LineRequest(
            offer=offer,
            input_tokens=prompt.estimate,
            output_tokens=min(limit or _DEFAULT_OUTPUT_TOKENS, model.context_length) * answers,
            bound_nanos=prompt.bound * dearest_input + most_output * price.output_nanos,
            prefix=prefix_key([body.get("tools"), body.get("messages") or body.get("prompt") or body.get("input")]),
        )

    def _check_body(self, body: dict[str, Any]) -> Offer:
        if body.get("stream"):
            raise LineError("stream_not_allowed", "A batched request cannot stream; leave out 'stream'", "body.stream")
        unknown = next((name for name in body if name not in _FIELDS[self.endpoint]), None)
        if unknown is not None:
            shown = _printable(unknown)
            raise LineError("unknown_parameter", f"'{shown}' is not a parameter of this endpoint", f"body.{shown}")
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise LineError("missing_required_parameter", "'model' is missing", "body.model")
        offer = self.find_offer(name)
        if offer is None:
            raise LineError(
                "model_not_found",
                f"The model '{_printable(name)}' does not exist or this key may not use it",
                "body.model",
            )
        if ENDPOINTS[self.endpoint] not in offer.model.capabilities:
            raise LineError(
                "endpoint_not_supported", f"'{_printable(name)}' does not serve {self.endpoint}", "body.model"
            )
        match self.endpoint:
            case "/v1/chat/completions":
                _check_messages(body.get("messages"))
            case "/v1/completions":
                _check_prompt(body.get("prompt"), "prompt")
            case "/v1/embeddings":
                _check_prompt(body.get("input"), "input")
        for name, most in _COUNTS.items():
            value = body.get(name)
            if value is not None and not (type(value) is int and 1 <= value <= (most or value)):
                allowed = f"from 1 to {most}" if most else "of at least 1"
                raise LineError("invalid_value", f"'{name}' must be a whole number {allowed}", f"body.{name}")
        return offer

    def _check_context(self, body: dict[str, Any], model: BaseModel, size: int) -> _Prompt:
        """Prompt tokens: exact where the byte bound could pass the context (no token is shorter than a byte)."""
        output = 0 if self.endpoint == "/v1/embeddings" else _output_limit(body) or 1
        messages = body.get("messages") or []
        prompts = _prompts(body)
        bound = size + _TEMPLATE_TOKENS + _MESSAGE_TOKENS * len(messages)
        if body.get("tools"):
            bound += _TOOLS_FACTOR * size
        if bound + output <= model.context_length:
            return _Prompt(len(prompts), size // 4, bound)
        counter = self.counter_of(model)
        if messages:
            counts = [counter.count_chat(messages, body.get("tools"))]
        else:
            counts = [counter.count_text(text) if isinstance(text, str) else len(text) for text in prompts]
        longest = max(counts)
        if longest + output > model.context_length:
            raise LineError(
                "context_length_exceeded",
                f"The prompt has {longest} tokens and asks for {output} more; "
                f"'{model.name}' has a context of {model.context_length}: shorten it or lower max_tokens",
                "body",
            )
        # The engine may render a conversation a little differently than we do, but never past the context.
        slack = _TEMPLATE_TOKENS if messages else 0
        return _Prompt(len(prompts), sum(counts), sum(min(count + slack, model.context_length) for count in counts))


def parse_request(data: bytes) -> dict[str, Any]:
    """The object of a line; :class:`LineError` when it is none that an engine could be sent."""
    try:
        value = parse_line(data)
        orjson.dumps(value)  # nests less deep than it reads
    except orjson.JSONDecodeError as error:
        reason = f"{error.msg} (column {error.colno})"
        raise LineError("invalid_json_line", f"The line is not valid JSON: {reason}") from error
    except orjson.JSONEncodeError as error:
        raise LineError("invalid_line", "The line nests too deeply") from error
    if not isinstance(value, dict):
        raise LineError("invalid_line", "The line must be a JSON object with custom_id, method, url and body")
    return value


def read_custom_id(value: dict[str, Any]) -> str:
    """The line's custom_id; :class:`LineError` when it has none that can be used."""
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise LineError("invalid_line", "'custom_id' must be a non-empty string, unique in the file", "custom_id")
    if len(custom_id) > MAX_CUSTOM_ID or "\0" in custom_id:
        raise LineError("invalid_line", f"'custom_id' takes at most {MAX_CUSTOM_ID} characters and no NUL", "custom_id")
    return custom_id


def _output_limit(body: dict[str, Any]) -> int | None:
    """Most tokens of one answer."""
    limit: int | None = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit


def _prompts(body: dict[str, Any]) -> list[Any]:
    """The prompts of a checked body: a conversation is one, ``prompt`` and ``input`` may be several."""
    prompt: Any = body.get("prompt", body.get("input"))
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return prompt if several else [prompt]


def _printable(text: str) -> str:
    """A customer's text as a message may quote it."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise LineError("invalid_value", "'messages' must be a non-empty array", "body.messages")
    for index, message in enumerate(messages):
        where = f"body.messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise LineError("invalid_value", "Each message must be an object with a 'role'", where)
        content = message.get("content")
        parts = content if isinstance(content, list) else []
        if content is not None and not isinstance(content, (str, list)):
            raise LineError("invalid_type", "'content' must be a string or an array of parts", f"{where}.content")
        for part in parts:
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                # An engine would fetch the URL of an image from inside our network.
                raise LineError("invalid_value", "Only content parts of type 'text' are served", f"{where}.content")


def _check_prompt(prompt: object, name: str) -> None:
    def are_tokens(value: object) -> bool:
        return isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)

    if isinstance(prompt, str) or are_tokens(prompt):
        return
    if (
        isinstance(prompt, list)
        and prompt
        and (all(isinstance(entry, str) for entry in prompt) or all(are_tokens(entry) for entry in prompt))
    ):
        return
    raise LineError(
        "invalid_value", f"'{name}' must be a string, or an array of strings or of token ids", f"body.{name}"
    )
