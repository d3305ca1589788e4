"""What an evaluation asks of a held-out row, and what the answers say. Pure: no clock, no I/O.

Of both models: an answer, as a customer would get it with ``temperature`` 0, and how likely the reference is. The
reference goes in as the token ids that were trained on, so that its loss here is the trainer's: the mean negative
log-likelihood of the trained tokens, each given all tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from .protocol import EvaluationResult, EvaluationWork, ModelAnswer, RowResult
from .rows import Row, token_counts

QUESTIONS = 4
"""At most about one row: an answer and a likelihood, of both models."""
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


class System(StrEnum):
    """The two that are compared."""

    BASE = "base"
    TUNED = "tuned"


@dataclass(frozen=True, eq=False, kw_only=True)
class Question(Row):
    """One request about a held-out row."""

    system: System
    asks_loss: bool
    """For the likelihood of the reference, else for an answer."""


def questions_of(
    row: Mapping[str, Any], *, lease_id: str, base: str, work: EvaluationWork, members: Mapping[str, Any]
) -> Iterator[Question]:
    """The requests about one row (FT: ``messages`` or ``prompt``, ``max_tokens`` ...).

    ``base`` is what the engine calls the base model; ``members`` are what it gets with every request of a batch.
    """
    salt = {"cache_salt": work.cache_salt} if work.cache_salt else {}
    for system, model in ((System.BASE, base), (System.TUNED, work.adapter.name)):
        common = {"model": model, "temperature": 0, **salt, **members}
        yield Question(
            lease_id=lease_id,
            line=row["line"],
            body=orjson.dumps(_generation(row) | common),
            endpoint=CHAT if "messages" in row else COMPLETIONS,
            system=system,
            asks_loss=False,
        )
        ids = _ids(row, work)
        if _trained(row, len(ids)):
            yield Question(
                lease_id=lease_id,
                line=row["line"],
                body=orjson.dumps({"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0} | common),
                endpoint=COMPLETIONS,
                system=system,
                asks_loss=True,
            )


class Answers:
    """What is known so far of one row."""

    def __init__(self, row: Mapping[str, Any], work: EvaluationWork) -> None:
        self._row, self._ids = row, _ids(row, work)
        self._missing = 2 * (1 + bool(_trained(row, len(self._ids))))
        self._found: dict[System, dict[str, Any]] = {system: {"text": None} for system in System}

    def take(self, question: Question, result: RowResult) -> bool:
        """Note the answer to a question about the row; whether it was the last."""
        found = self._found[question.system]
        prompt, completion = token_counts(result)
        found["input_tokens"] = found.get("input_tokens", 0) + prompt
        found["output_tokens"] = found.get("output_tokens", 0) + completion
        try:
            choice = _choice(result)
            if question.asks_loss:
                found["loss"], found["tokens"] = _loss(choice, self._ids, _trained(self._row, len(self._ids)))
            else:
                found["text"] = choice["message"]["content"] or "" if "message" in choice else choice["text"]
        except _NoAnswer as reason:
            found.setdefault("error", str(reason))
        self._missing -= 1
        return self._missing == 0

    def result(self) -> EvaluationResult:
        """Of the whole row."""
        base, tuned = (ModelAnswer(**self._found[system]) for system in System)
        return EvaluationResult(line=self._row["line"], base=base, tuned=tuned)


class _NoAnswer(Exception):
    pass


def _generation(row: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: row[name] for name in ("messages", "prompt", "tools") if row.get(name) is not None}
    body = asked | {"max_tokens": row["max_tokens"]}
    if row.get("choices"):
        body["structured_outputs"] = {"choice": row["choices"]}
    elif row.get("json_schema") is not None:
        body["structured_outputs"] = {"json": row["json_schema"]}
    return body


def _ids(row: Mapping[str, Any], work: EvaluationWork) -> list[int]:
    """As many as leave room for the one token that every request must produce."""
    ids: list[int] = row.get("ids") or []
    return ids[: work.context_length - 1]


def _trained(row: Mapping[str, Any], length: int) -> list[int]:
    """Positions whose token is predicted; the first token is predicted from nothing."""
    spans: list[list[int]] = row.get("trained") or []
    return [place for start, end in spans for place in range(max(1, start), min(end, length))]


def _choice(result: RowResult) -> dict[str, Any]:
    body = result.body or {}
    if result.status != 200:
        error: Any = body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        raise _NoAnswer(message or (result.error.message if result.error else f"status {result.status}"))
    try:
        choice: dict[str, Any] = body["choices"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise _NoAnswer("The engine's answer has no choice.") from error
    return choice


def _loss(choice: dict[str, Any], ids: list[int], places: list[int]) -> tuple[float, int]:
    """Mean over these positions, in nats, and their number."""
    try:
        tokens = choice["prompt_logprobs"]
        total = sum(tokens[place][str(ids[place])]["logprob"] for place in places)
    except (KeyError, IndexError, TypeError) as error:
        raise _NoAnswer("The engine did not give the likelihood of every token.") from error
    return -total / len(places), len(places)
