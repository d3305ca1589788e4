"""A few rows to look at side by side: where tuning helped most, where it harmed most, and some by chance."""

import heapq
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from finetuning.metrics import Scores
from finetuning.predictions import Prediction

SAMPLES = 5
"""Of each sort."""
SAMPLE_CHARACTERS = 1_000
"""Of each text in a sample; the examples have all of it."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row with what both models made of it; ``gain`` is in the score, positive where tuning helped."""

    prediction: Prediction
    base: Scores | None
    tuned: Scores | None

    @property
    def gain(self) -> float | None:
        """None of a row that was not compared."""
        return None if self.base is None or self.tuned is None else self.tuned.score - self.base.score

    @property
    def loss_gain(self) -> float:
        """How much likelier the reference became, in nats per token; tells equal scores apart."""
        if self.base is None or self.tuned is None or self.base.loss is None or self.tuned.loss is None:
            return 0.0
        return self.base.loss - self.tuned.loss


class Samples:
    """Keeps the examples that are shown, however many are added; the same ones for the same rows and seed."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._improved: list[_Ranked] = []
        self._worsened: list[_Ranked] = []
        self._chosen: list[_Ranked] = []

    def add(self, example: Example) -> None:
        """Consider a row that was compared."""
        if example.gain is None:
            return
        line = example.prediction.row.line
        difference = (example.gain, example.loss_gain)
        if difference > (0.0, 0.0):
            _keep(self._improved, (*difference, -line), example)
        if difference < (0.0, 0.0):
            _keep(self._worsened, (-difference[0], -difference[1], -line), example)
        lot = int.from_bytes(sha256(f"{self._seed}:{line}".encode()).digest()[:6])
        _keep(self._chosen, (-lot, 0, 0), example)

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """``improved`` and ``worsened``, the most first, and ``random``, in the order of the file."""
        by_line = sorted(self._chosen, key=lambda ranked: ranked.example.prediction.row.line)
        return {
            "improved": [_clipped(ranked.example) for ranked in sorted(self._improved, reverse=True)],
            "worsened": [_clipped(ranked.example) for ranked in sorted(self._worsened, reverse=True)],
            "random": [_clipped(ranked.example) for ranked in by_line],
        }


@dataclass(frozen=True, order=True)
class _Ranked:
    rank: tuple[float, float, int]
    example: Example = field(compare=False)


def example_as_json(example: Example) -> dict[str, Any]:
    """The whole example: one line of the report's NDJSON."""
    row = example.prediction.row
    return {
        "line": row.line,
        "slice": row.slice,
        "prompt": row.prompt,
        "reference": row.reference,
        "base": _side(example, "base"),
        "tuned": _side(example, "tuned"),
        "gain": None if example.gain is None else round(example.gain, 6),
    }


def _side(example: Example, name: str) -> dict[str, Any]:
    answer, scores = getattr(example.prediction, name), getattr(example, name)
    return {
        "text": answer.text,
        "score": scores.score if scores else None,
        "loss": answer.loss,
        "tokens": answer.tokens,
        "error": answer.error,
    }


def _keep(heap: list[_Ranked], rank: tuple[float, float, int], example: Example) -> None:
    if len(heap) < SAMPLES:
        heapq.heappush(heap, _Ranked(rank, example))
    elif heap[0].rank < rank:
        heapq.heapreplace(heap, _Ranked(rank, example))


def _clipped(example: Example) -> dict[str, Any]:
    whole = example_as_json(example)
    row = example.prediction.row
    whole["prompt"] = _clip(row.prompt if isinstance(row.prompt, str) else _last_text(row.prompt))
    whole["reference"] = _clip(row.reference)
    for name in ("base", "tuned"):
        whole[name]["text"] = _clip(whole[name]["text"])
    return whole


def _last_text(messages: list[dict[str, Any]]) -> str:
    content = messages[-1].get("content") if messages else None
    return content if isinstance(content, str) else orjson.dumps(content).decode() if content else ""


def _clip(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else f"{text[:SAMPLE_CHARACTERS]}…"
