"""How many rows of batches one engine gets at a time, and what it makes of them.

Puts together what the three measure: the best width (:mod:`.width`), what online traffic leaves of it
(:mod:`.online_share`), and the throughput that is reported (:mod:`.throughput`). Times are seconds of one clock.
"""

from __future__ import annotations

from .config import ModelConfig
from .online_share import EngineLoad, OnlineShare
from .throughput import Throughput
from .width import WidthFinder

LOOK_SECONDS = 3
"""Between two looks at an engine that has nobody's requests but ours."""


class Pace:
    """:attr:`limit` rows may be in flight now."""

    def __init__(self, model: ModelConfig) -> None:
        self._width, self._share = WidthFinder(model.max_in_flight), OnlineShare(model.online_share)
        self._throughput = Throughput()
        self._is_saturated, self._seconds = False, 0

    @property
    def limit(self) -> int:
        """Rows in flight, at most."""
        return self._share.limit(self._width.width)

    @property
    def tokens_per_second(self) -> float:
        """Prompt and completion tokens of answered rows per second with rows in flight; 0 while not known."""
        return self._throughput.tokens_per_second

    def dispatched(self, in_flight: int, *, now: float) -> None:
        """As many rows as may and can be in flight are."""
        self._is_saturated = in_flight >= self._width.width
        self._throughput.is_busy(in_flight > 0, now=now)

    def answered(self, tokens: int, *, now: float) -> None:
        """A row of that many tokens was answered."""
        self._throughput.answered(tokens=tokens, now=now)
        # An engine that counts no tokens is judged by its rows.
        self._width.answered(tokens=max(1, tokens), now=now, is_saturated=self._is_saturated)

    def wants_load(self) -> bool:
        """Ask it every second while rows run: whether the engine should be asked for its load now.

        A look costs vLLM some 8 ms of a CPU, so while there is nobody else to make room for they are few: until the
        next one the engine's own priorities have to do.
        """
        self._seconds += 1
        return self._share.has_company or self._share.part < 1 or self._seconds % LOOK_SECONDS == 0

    def passed(self, load: EngineLoad | None, *, ours: int, now: float) -> None:
        """About once a second while rows run; ``ours`` are the engine's requests that are our rows'."""
        self._share.observe(load, ours=ours)
        self._width.passed(now=now, is_saturated=self._is_saturated)
