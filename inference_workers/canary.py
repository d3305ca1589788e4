"""The canary: does an adapter do anything, and does it leave the base model alone?

An engine may load an adapter whose modules it does not know and apply nothing, or apply it to those who did not ask.
Neither shows in any status. So fixed texts are scored, token by token, by the base without the adapter, and then by
both in one batch: the adapter must score them differently, and the base as before.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from .engine_server import EngineServer, EngineTrouble

TEXTS = (
    "The customer wrote: my parcel has not arrived, and nobody answers the telephone. We replied that",
    "Question: What is the mood of 'what a lovely day'? Answer: positive. Question: What is the capital of France?",
    '{"name": "Ada Lovelace", "born": 1815, "occupation": "mathematician", "languages": ["English", "French"]}',
    "Once upon a time there was a small engine that answered every question with another question, until one morning",
)
SCORING = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
NOISE_FACTOR = 4
"""A difference counts from so many times what the base differs from itself between one batch and another ..."""
LEAST_DIFFERENCE = 1e-3
"""... and from this, in nats of one token's log-probability."""

Scores = list[float]
"""Log-probabilities of the texts' tokens, in their order."""


class EngineUnsound(Exception):
    """The engine answers the base model's requests with the adapter: it must serve neither."""


async def canary(
    server: EngineServer, *, base: str, adapter: str, load: Callable[[], Awaitable[None]], members: Mapping[str, int]
) -> str | None:
    """Try an adapter on a running engine: why it must not be served, or None.

    ``load`` returns once the engine has it loaded under its name. ``members`` are added to every request. Raises
    :class:`EngineUnsound`, :class:`EngineTrouble`, ``EngineDied``, and whatever ``load`` raises.
    """
    before = await _score(server, base, members)
    # One by one: in a batch of another size the same numbers come out a little differently.
    noise = _difference(before, await _score(server, base, members, at_once=False))
    await load()
    tuned, after = await asyncio.gather(_score(server, adapter, members), _score(server, base, members))
    least = NOISE_FACTOR * noise + LEAST_DIFFERENCE
    if not all(map(math.isfinite, tuned)):
        return "its answers are no numbers"
    changed = _difference(before, after)
    if changed > least:
        raise EngineUnsound(f"the base model's log-probabilities have moved by {changed:.3g} while it was loaded")
    moved = _difference(before, tuned)
    if moved <= least:
        return (
            f"it answers as the base model does (log-probabilities differ by {moved:.3g} at most): it has learnt "
            "nothing, or its modules are not those of the base"
        )
    return None


async def _score(server: EngineServer, model: str, members: Mapping[str, int], *, at_once: bool = True) -> Scores:
    calls = [_score_text(server, model, members, index) for index in range(len(TEXTS))]
    parts = await asyncio.gather(*calls) if at_once else [await call for call in calls]
    return [score for part in parts for score in part]


async def _score_text(server: EngineServer, model: str, members: Mapping[str, int], index: int) -> Scores:
    body = {"model": model, "prompt": TEXTS[index], **SCORING, **members}
    status, answer = await server.post("/v1/completions", orjson.dumps(body), request_id=f"canary_{index}")
    if status != 200:
        raise EngineTrouble(f"the engine would not score a text: {answer}")
    return _read_scores(answer)


def _read_scores(answer: dict[str, Any]) -> Scores:
    """Of all tokens but the first, which follows nothing."""
    try:
        (choice,) = answer["choices"]
        tokens = choice["prompt_logprobs"][1:]
        # Without alternatives (``prompt_logprobs`` 0) each entry has the text's own token alone.
        return [_number(next(iter(token.values()))["logprob"]) for token in tokens]
    except (KeyError, TypeError, ValueError, IndexError, StopIteration, AttributeError) as error:
        raise EngineTrouble("the engine's answer holds no scores") from error


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _difference(one: Scores, other: Scores) -> float:
    """The greatest difference of any token."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
