"""Token counts with a model's own tokenizer and chat template, exactly as the engine counts them."""

from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import orjson
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from catalog.models import BaseModel
from common.storage import open_blob


class TokenCounter:
    """Counts the tokens of prompts for one revision of one model."""

    def __init__(self, tokenizer: Tokenizer, template: jinja2.Template | None, special_tokens: dict[str, str]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._special_tokens = special_tokens

    def count_chat(self, messages: list[Any], tools: list[Any] | None = None) -> int:
        """Tokens of a conversation with the generation prompt.

        A conversation that the template refuses is counted without it; the engine will say what is wrong.
        """
        text = orjson.dumps(messages).decode()
        if self._template is not None:
            with suppress(Exception):  # the template is code of the model's: it may raise anything
                text = self._template.render(
                    messages=messages, tools=tools, add_generation_prompt=True, **self._special_tokens
                )
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
    environment.filters["tojson"] = lambda value, **_: orjson.dumps(value).decode()
    template = environment.from_string(chat_template) if chat_template else None
    return TokenCounter(Tokenizer.from_buffer(tokenizer), template, special_tokens)


@lru_cache(maxsize=8)
def _load(tokenizer_key: str, chat_template: str, special_tokens: bytes) -> TokenCounter:
    with open_blob(tokenizer_key) as file:
        return build_counter(file.read(), chat_template, orjson.loads(special_tokens))


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
