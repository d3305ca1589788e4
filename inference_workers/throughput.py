"""Tokens per second of busy time, over about the last half minute. Pure: it is told the time, and reads no clock."""

from __future__ import annotations

import math

MEMORY_SECONDS = 30.0
"""After so much busy time an answer counts 1/e."""


class Throughput:
    """Two sums, tokens and the seconds they took, that fade alike; what is idle does not fade."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._busy_since: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """0 while nothing is known."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def answered(self, *, tokens: int, now: float) -> None:
        """A row was answered, with that many tokens of prompt and completion."""
        self._pass(now)
        self._tokens += tokens

    def is_busy(self, busy: bool, *, now: float) -> None:
        """Whether there are rows in flight from now on."""
        self._pass(now)
        self._busy_since = now if busy else None

    def _pass(self, now: float) -> None:
        if self._busy_since is None:
            return
        seconds = now - self._busy_since
        fading = math.exp(-seconds / MEMORY_SECONDS)
        self._tokens *= fading
        self._seconds = self._seconds * fading + seconds
        self._busy_since = now
