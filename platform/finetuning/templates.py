"""What a row of columns becomes: messages, or a prompt and its completion, with ``{{column}}`` for what it holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from finetuning.examples import ROLES
from finetuning.problems import RowError, pointer

_PLACE = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


class TemplateSyntaxError(ValueError):
    """The template is none; ``param`` is the member that is wrong."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Template:
    """Texts with places for columns, in the shape of a row of training data."""

    messages: tuple[tuple[str, str], ...] = ()
    """Role and text."""
    rejected: str | None = None
    """The answer that is not wanted; the last message is the one that is."""
    prompt: str | None = None
    completion: str | None = None

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """From ``messages`` (and ``rejected``), or ``prompt`` and ``completion``."""
        if "messages" in value:
            return cls(
                messages=_read_messages(value["messages"]),
                rejected=_read_text(value, "rejected") if "rejected" in value else None,
            )
        return cls(prompt=_read_text(value, "prompt"), completion=_read_text(value, "completion"))

    @property
    def columns(self) -> frozenset[str]:
        """Names of the columns that the texts have places for."""
        return frozenset(name for text in self._texts() for name in _PLACE.findall(text))

    @property
    def answer(self) -> str:
        """What is learnt."""
        return self.messages[-1][1] if self.messages else self.completion or ""

    @property
    def answer_column(self) -> str | None:
        """The column that is the whole answer, if one is."""
        match = _PLACE.fullmatch(self.answer.strip())
        return match[1] if match else None

    @property
    def instructions(self) -> str | None:
        """The system message, where it is the same for every row."""
        role, text = self.messages[0] if self.messages else ("", "")
        return text if role == "system" and not _PLACE.search(text) else None

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row of training data that a row of columns becomes; :class:`RowError` when a column is missing.

        A message whose places are all empty is left out, the answer and the question apart.
        """
        if self.prompt is not None and self.completion is not None:
            return {"prompt": _fill(self.prompt, row), "completion": _fill(self.completion, row)}
        filled = [
            {"role": role, "content": _fill(text, row)} for role, text in self.messages if not _is_idle(role, text, row)
        ]
        if self.rejected is None:
            return {"messages": filled}
        return {
            "input": {"messages": filled[:-1]},
            "preferred_output": filled[-1:],
            "non_preferred_output": [{"role": "assistant", "content": _fill(self.rejected, row)}],
        }

    def column_at(self, where: str, filled: Mapping[str, Any]) -> str | None:
        """The column that stands at a JSON pointer of the row that was filled, if one does."""
        _, member, *rest = where.split("/")
        if member == "messages" and rest and self.messages:
            dropped = len(self.messages) - len(filled["messages"])
            text = self.messages[int(rest[0]) + dropped][1]
        else:
            text = {"prompt": self.prompt, "completion": self.completion}.get(member) or ""
        return next(iter(_PLACE.findall(text)), None)

    def _texts(self) -> list[str]:
        texts = [text for _, text in self.messages]
        return texts + [text for text in (self.rejected, self.prompt, self.completion) if text is not None]


def cell_text(value: Any) -> str:
    """A column's content as text: what is no string as compact JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _fill(text: str, row: Mapping[str, Any]) -> str:
    def content(match: re.Match[str]) -> str:
        name = match[1]
        if name not in row:
            found = ", ".join(map(str, row)) or "none"
            raise RowError(
                "missing_column",
                pointer(name),
                f"The row has no column '{name}' (it has: {found[:200]})",
                "Rename the column, or say in the column mapping which one it is",
            )
        value = row[name]
        return "" if value is None else cell_text(value)

    return _PLACE.sub(content, text)


def _is_idle(role: str, text: str, row: Mapping[str, Any]) -> bool:
    names = _PLACE.findall(text)
    return role == "system" and bool(names) and all(not row.get(name) for name in names)


def _read_messages(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise TemplateSyntaxError("'messages' must be a non-empty array", param="messages")
    read = []
    for message in value:
        if not isinstance(message, dict) or message.keys() != {"role", "content"} or message["role"] not in ROLES:
            raise TemplateSyntaxError("each message must hold 'role' and 'content'", param="messages")
        read.append((message["role"], _read_text(message, "content")))
    if read[-1][0] != "assistant":
        raise TemplateSyntaxError("the last message must be the assistant's", param="messages")
    return tuple(read)


def _read_text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        raise TemplateSyntaxError(f"'{name}' must be a text", param=name)
    return text
