"""Token counts with a model's own tokenizer and chat template, exactly as the engine counts them."""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NoReturn

import jinja2
import orjson
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from catalog.models import BaseModel
from common.storage import open_blob


class TemplateRefusal(Exception):
    """The model's chat template refuses a conversation, for the reason given."""


class TokenCounter:
    """Renders and counts the prompts of one revision of one model."""

    def __init__(self, tokenizer: Tokenizer, template: jinja2.Template | None, source: str, special: dict[str, str]):
        self._tokenizer = tokenizer
        self._template = template
        self._source = source
        self._special_tokens = special

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for no text of their own, such as the end of a turn."""
        return frozenset(id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """How these tokens are written."""
        return frozenset(
            token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special
        )

    @cached_property
    def end_id(self) -> int | None:
        """Id of the token that ends a text, if the model has one."""
        end = self._special_tokens.get("eos_token")
        return self._tokenizer.token_to_id(end) if end else None

    @property
    def has_template(self) -> bool:
        """Whether the model knows conversations."""
        return self._template is not None

    def template_knows(self, name: str) -> bool:
        """Whether the chat template looks at a member of this name at all."""
        return name in self._source

    def render(
        self, messages: Sequence[Any], *, tools: list[Any] | None = None, add_generation_prompt: bool = False
    ) -> str:
        """The text of a conversation as the model reads it; :class:`TemplateRefusal` when the template refuses it."""
        if self._template is None:
            raise TemplateRefusal("the model has no chat template")
        try:
            return self._template.render(
                messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except Exception as error:  # the template is code of the model's: it may raise anything
            raise TemplateRefusal(str(error)) from error

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text. Rendered conversations hold their special tokens already; plain prompts do not."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def count_chat(self, messages: list[Any], tools: list[Any] | None = None) -> int:
        """Tokens of a conversation with the generation prompt.

        A conversation that the template refuses is counted without it; the engine will say what is wrong.
        """
        try:
            text = self.render(messages, tools=tools, add_generation_prompt=True)
        except TemplateRefusal:
            text = orjson.dumps(messages).decode()
        return len(self._tokenizer.encode(text, add_special_tokens=self._template is None).ids)

    def count_text(self, text: str) -> int:
        """Tokens of a plain prompt, special tokens included."""
        return len(self._tokenizer.encode(text).ids)


def token_counter(model: BaseModel) -> TokenCounter:
    """The counter of a model, kept in memory for its revision."""
    return _load(model.tokenizer_key, model.chat_template, orjson.dumps(model.special_tokens))


def build_counter(tokenizer: bytes, chat_template: str, special_tokens: dict[str, str]) -> TokenCounter:
    """A counter from the files of a model; ValueError or jinja2.TemplateError when they are broken."""
    # The template comes with the model: untrusted, so sandboxed, with the extras that templates rely on.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    template = environment.from_string(chat_template) if chat_template else None
    return TokenCounter(Tokenizer.from_buffer(tokenizer), template, chat_template, special_tokens)


@lru_cache(maxsize=8)
def _load(tokenizer_key: str, chat_template: str, special_tokens: bytes) -> TokenCounter:
    with open_blob(tokenizer_key) as file:
        return build_counter(file.read(), chat_template, orjson.loads(special_tokens))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers' own filter writes it, so that tools cost here what they cost the engine."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
