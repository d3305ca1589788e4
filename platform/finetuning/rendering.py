"""Examples as token ids, and which of them are learnt: with the model's own chat template and tokenizer.

A trained answer begins where the engine would begin to write it: after the text of the conversation so far with the
generation prompt. It ends with the token that ends the turn. Both places are found by rendering the beginnings of the
conversation, and hold only if each rendering is a beginning of the whole; a template that breaks this rule (it rewrites
earlier turns) is refused with the reason instead of training something else than what will be asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import orjson

from catalog.models import BaseModel
from catalog.tokens import TemplateRefusal, TokenCounter, token_counter
from finetuning.examples import Chat, Completion, Preference, content_text
from finetuning.problems import RowError, pointer


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A row as the trainer reads it. A position is predicted from those before it, so the first is never trained."""

    ids: list[int]
    trained: list[tuple[int, int]]
    """Half-open spans of the positions that are learnt, in order, apart from one another."""
    weights: list[float]
    """Of each span."""
    length: int
    """Tokens before anything was cut off."""
    is_truncated: bool = False
    """Whether something that is learnt was cut off."""

    @property
    def tokens(self) -> int:
        """Tokens that pass through the model."""
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        """How many positions are learnt."""
        return sum(stop - start for start, stop in self.trained)


@dataclass(frozen=True, kw_only=True)
class PreferenceTokens:
    """A preference as the trainer reads it; both answers follow the same prompt."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    length: int
    """Tokens of the prompt and the longer answer, before anything was cut off."""
    is_truncated: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that pass through the model."""
        return 2 * len(self.prompt) + self.trained_tokens

    @property
    def trained_tokens(self) -> int:
        """Tokens of both answers."""
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class _Span:
    start: int
    stop: int
    weight: float = 1.0


class Renderer:
    """Renders for one base model."""

    def __init__(self, *, base: BaseModel, max_seq_length: int, train_on: str = "assistant") -> None:
        self._base = base
        self._counter: TokenCounter = token_counter(base)
        self.max_length = min(max_seq_length, base.context_length)
        """In tokens; what is longer is cut at its end."""
        self._trains_all = train_on == "all"

    def chat(self, example: Chat) -> Tokens:
        """A conversation; every answer with a weight is learnt, or everything but answers without one."""
        messages = self._templated(example.messages, example.tools, where="/messages")
        ids, spans = self._spans(messages, example)
        if self._trains_all:
            spans = _complement([span for span in spans if not span.weight], len(ids))
        return self._cut(ids, [span for span in spans if span.weight])

    def completion(self, example: Completion) -> Tokens:
        """A text and how it goes on, without any template."""
        (prompt,) = self._counter.encode([example.prompt], add_special_tokens=True)
        (rest,) = self._counter.encode([example.completion])
        ids = self._ended(prompt + rest)
        return self._cut(ids, [_Span(0 if self._trains_all else len(prompt), len(ids))])

    def preference(self, example: Preference) -> PreferenceTokens:
        """Both answers after the same prompt. What is longer than allowed loses the ends of its answers."""
        messages = self._templated(example.messages, example.tools, where="/input/messages")
        outputs = []
        for name, output in (("preferred_output", example.preferred), ("non_preferred_output", example.rejected)):
            (answer,) = self._templated([output], example.tools, where=pointer(name))
            ids, (span,) = self._spans([*messages, answer], example, only_last=True)
            outputs.append((ids[: span.start], ids[span.start : span.stop]))
        (prompt, chosen), (_, rejected) = outputs
        room = max(0, self.max_length - len(prompt))
        return PreferenceTokens(
            prompt=prompt,
            chosen=chosen[:room],
            rejected=rejected[:room],
            length=len(prompt) + max(len(chosen), len(rejected)),
            is_truncated=max(len(chosen), len(rejected)) > room,
        )

    def count(self, text: str) -> int:
        """Tokens of a piece of text."""
        return len(self._counter.encode([text])[0])

    def has_special_token(self, text: str) -> bool:
        """Whether a text would be read as more than text."""
        return any(token in text for token in self._counter.special_texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self._counter.decode(ids)

    def _spans(
        self, messages: list[dict[str, Any]], example: Chat | Preference, *, only_last: bool = False
    ) -> tuple[list[int], list[_Span]]:
        """Token ids of a conversation, and its answers; with ``train_on: all`` those that are not learnt."""
        text = self._render(messages, example.tools)
        last = len(messages) - 1
        weights = [0.0] * last + [1.0] if isinstance(example, Preference) else example.weights
        wanted = [
            index
            for index in ([last] if only_last else range(len(messages)))
            if messages[index]["role"] == "assistant" and (only_last or bool(weights[index]) != self._trains_all)
        ]
        cuts: list[int] = []
        for index in wanted:
            cuts.append(self._beginning(text, messages[:index], example, index, is_prompt=True))
            cuts.append(len(text) if index == last else self._beginning(text, messages[: index + 1], example, index))
        ids, places = self._tokenize(text, cuts)
        spans = [
            _Span(start, self._turn_end(ids, start, stop), weights[index])
            for index, start, stop in zip(wanted, places[::2], places[1::2], strict=True)
        ]
        ended = ids if self._turn_end(ids, 0, len(ids)) < len(ids) else self._ended(ids)
        if spans and spans[-1].stop == len(ids):
            spans[-1] = replace(spans[-1], stop=len(ended))
        return ended, spans

    def _templated(
        self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, where: str
    ) -> list[dict[str, Any]]:
        """Messages as chat templates expect them: as the engine hands them over."""
        self._check_tools(messages, tools, where)
        templated = []
        for message in messages:
            plain = {**message, "content": content_text(message.get("content"))}
            if calls := message.get("tool_calls"):
                plain["tool_calls"] = [
                    {**call, "function": {**call["function"], "arguments": orjson.loads(call["function"]["arguments"])}}
                    for call in calls
                ]
            templated.append(plain)
        return templated

    def _check_tools(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, where: str) -> None:
        # A template without a place for tools leaves them out silently, and the model would learn empty answers.
        called = next((index for index, message in enumerate(messages) if message.get("tool_calls")), None)
        if called is not None and not self._counter.template_knows("tool_calls"):
            raise self._no_tools(f"{where}/{called}/tool_calls")
        if tools and not self._counter.template_knows("tools"):
            raise self._no_tools(where.rpartition("/")[0] + "/tools")

    def _no_tools(self, where: str) -> RowError:
        return RowError(
            "tools_not_supported",
            where,
            f"The chat template of '{self._base.name}' has no place for tools",
            "Choose a model whose template has one, or write calls and results as text",
        )

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None, *, is_prompt: bool = False) -> str:
        try:
            return self._counter.render(messages, tools=tools, add_generation_prompt=is_prompt)
        except TemplateRefusal as error:
            raise RowError(
                "template_refused",
                "/messages",
                f"The chat template of '{self._base.name}' refuses the conversation: {str(error)[:200]}",
                "Change the order of the roles to what the model knows, or choose another model",
            ) from error

    def _beginning(
        self,
        text: str,
        messages: list[dict[str, Any]],
        example: Chat | Preference,
        index: int,
        *,
        is_prompt: bool = False,
    ) -> int:
        """Where ``text`` goes on after these messages."""
        beginning = self._render(messages, example.tools, is_prompt=is_prompt) if messages or is_prompt else ""
        if not text.startswith(beginning):
            raise RowError(
                "template_unsupported",
                pointer("messages", index),
                f"The chat template of '{self._base.name}' writes this answer otherwise than it is asked for, or "
                "changes it when the conversation goes on, so it cannot be learnt as it will be used",
                "Begin the conversation with a question, give earlier answers the weight 0, or choose another model",
            )
        return len(beginning)

    def _tokenize(self, text: str, cuts: list[int]) -> tuple[list[int], list[int]]:
        """Token ids of a text, and the positions among them of places in the text."""
        pieces = [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]
        *parts, whole = self._counter.encode([*pieces, text])
        split = [token for part in parts for token in part]
        places = list(accumulate(len(part) for part in parts[:-1]))
        # Where a token would reach over a cut, the engine begins a new one there, too.
        if split == whole or self._counter.decode(split) == self._counter.decode(whole):
            return split, places
        # The tokenizer marks beginnings of texts: pieces are no pieces of the whole, but beginnings may be.
        beginnings = self._counter.encode([text[:cut] for cut in cuts])
        if any(whole[: len(ids)] != ids for ids in beginnings):
            raise RowError(
                "template_unsupported",
                "/messages",
                f"The tokenizer of '{self._base.name}' joins the end of a question with the beginning of its answer",
                "Choose another model, or begin the answers with a letter",
            )
        return whole, [len(ids) for ids in beginnings]

    def _turn_end(self, ids: list[int], start: int, stop: int) -> int:
        """Where the turn ends for the engine: after its last special token, if only white space follows that."""
        specials = (at for at in range(stop - 1, start - 1, -1) if ids[at] in self._counter.special_ids)
        last = next(specials, None)
        if last is None or self._counter.decode(ids[last + 1 : stop]).strip():
            return stop
        return last + 1

    def _ended(self, ids: list[int]) -> list[int]:
        """With the token that ends a text, so that the model learns to stop, unless it stands there already."""
        end = self._counter.end_id
        if end is None or (ids and ids[-1] in self._counter.special_ids):
            return ids
        return [*ids, end]

    def _cut(self, ids: list[int], spans: list[_Span]) -> Tokens:
        clipped = [
            _Span(max(1, span.start), min(span.stop, self.max_length), span.weight)
            for span in spans
            if max(1, span.start) < min(span.stop, self.max_length)
        ]
        # Behind the last that is learnt there is nothing to compute.
        return Tokens(
            ids=ids[: clipped[-1].stop] if clipped else [],
            trained=[(span.start, span.stop) for span in clipped],
            weights=[span.weight for span in clipped],
            length=len(ids),
            is_truncated=bool(spans) and spans[-1].stop > self.max_length,
        )


def _complement(spans: list[_Span], length: int) -> list[_Span]:
    edges = [0, *(edge for span in spans for edge in (span.start, span.stop)), length]
    return [_Span(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
