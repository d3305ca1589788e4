"""Finds how many rows an engine should have in flight. Pure: it is told what happened and when, and reads no clock.

Throughput grows with the width and then stops growing; the width wanted is the one where it stops. Below it the engine
idles; above it rows only wait inside the engine, where they can neither be given to another node nor overtaken. Too
high costs little and too low costs throughput, so in doubt the width is high:

* **Ramp**, as TCP's slow start (RFC 5681, 3.1): the width doubles up to its bound, every second or two while rows
  take too long for measuring, else as long as doubling brings :data:`WORTH`.
* **Hold**: throughput is measured in windows of whole generations (``width`` answers each), so that rows which end
  together, as those of one batch step do, are never counted with half of the time they took.
* **Probe**, hill climbing with hysteresis: now and then one step up, kept if it brings :data:`WORTH`, or down, kept if
  all steps down since the last one up together lose no more than :data:`LOSS`. A probe that brings nothing is undone,
  and the next one waits twice as long.

Only what happened while the engine was saturated counts: with fewer rows than the width allows nothing is learned.
"""

from __future__ import annotations

from enum import Enum

START = 16
"""Rows in flight to begin with, and the narrowest width: no engine is known that fewer rows fill."""
RAMP = 2
STEP = 1.5
RAMP_SECONDS = 0.9
"""A little less than the second after which the ramp is asked to go on."""
WINDOW_SECONDS = 1.0
"""A shorter window would measure the event loop ..."""
WINDOW_ROWS = 64
"""... and one of fewer rows their differences."""
WORTH = 1.05
LOSS = 0.97
FIRST_PATIENCE = 8
"""Windows between the end of one probe and the next ..."""
LAST_PATIENCE = 128
"""... which is doubled up to this while probes bring nothing."""


class _Phase(Enum):
    RAMP = "ramp"
    HOLD = "hold"
    UP = "up"
    DOWN = "down"


class WidthFinder:
    """:attr:`width` is the best width known, or the one being tried; never above ``bound``."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.width = self._held = self._floor = min(START, bound)
        self._phase = _Phase.RAMP if self.width < bound else _Phase.HOLD
        self._base = 0.0  # tokens per second at the width that is held, 0 while not measured
        self._kept = 1.0  # what the steps down since the last one up have left of the throughput
        self._patience = FIRST_PATIENCE
        self._windows = 0
        self._prefers_up = True
        self._since: float | None = None  # saturated at this width
        self._settling = self.width
        self._began_at: float | None = None
        self._rows = self._tokens = 0

    def answered(self, *, tokens: int, now: float, is_saturated: bool) -> None:
        """A row was answered, with that many tokens of prompt and completion."""
        if not self._is_measuring(now, is_saturated):
            return
        if self._settling > 0:  # rows that began at another width
            self._settling -= 1
            return
        if self._began_at is None:
            self._began_at = now
            return
        self._rows += 1
        self._tokens += tokens
        seconds = now - self._began_at
        if self._rows % self.width == 0 and self._rows >= WINDOW_ROWS and seconds >= WINDOW_SECONDS:
            rate = self._tokens / seconds
            self._began_at, self._rows, self._tokens = now, 0, 0
            self._judge(rate)

    def passed(self, *, now: float, is_saturated: bool) -> None:
        """Call it about once a second while rows run."""
        if not self._is_measuring(now, is_saturated) or self._since is None:
            return
        patience = RAMP_SECONDS if self._settling > 0 else 2 * RAMP_SECONDS
        if self._phase is _Phase.RAMP and now - self._since >= patience:
            self._base = 0.0  # rows take too long for a window at every step: nothing can be compared
            self._ramp()
            self._since = now

    def _is_measuring(self, now: float, is_saturated: bool) -> bool:
        if not is_saturated:
            if self._phase in (_Phase.UP, _Phase.DOWN):
                self._hold(self._held)
            self._set_width(self.width)
        elif self._since is None:
            self._since = now
        return is_saturated

    def _judge(self, rate: float) -> None:
        if self._phase is _Phase.HOLD:
            self._base = (self._base + rate) / 2 if self._base else rate
            self._windows += 1
            if self._windows >= self._patience:
                self._probe()
            return
        gain = rate / self._base if self._base else WORTH
        if self._phase is _Phase.RAMP:
            self._base = rate
            if gain >= WORTH:
                self._ramp()
            else:
                self._hold(self.width)
            return
        is_up = self._phase is _Phase.UP
        kept = 1.0 if is_up else min(1.0, self._kept * gain)
        if (gain >= WORTH) if is_up else (kept >= LOSS):
            self._base, self._kept = rate, kept
            self._prefers_up, self._patience = is_up, FIRST_PATIENCE
            self._probe()
        else:
            self._prefers_up = not is_up
            self._patience = min(2 * self._patience, LAST_PATIENCE)
            self._hold(self._held)

    def _ramp(self) -> None:
        self._set_width(min(self.bound, self.width * RAMP))
        if self.width == self.bound:
            self._hold(self.width)

    def _probe(self) -> None:
        """One step up or down, the way that is preferred if there is room, else the other."""
        can_grow, can_shrink = self.width < self.bound, self.width > self._floor
        self._held = self.width
        if can_grow and (self._prefers_up or not can_shrink):
            self._phase = _Phase.UP
            self._set_width(min(self.bound, round(self.width * STEP)))
        elif can_shrink:
            self._phase = _Phase.DOWN
            self._set_width(max(self._floor, round(self.width / STEP)))
        else:
            self._hold(self.width)

    def _hold(self, width: int) -> None:
        self._phase, self._windows = _Phase.HOLD, 0
        self._set_width(width)

    def _set_width(self, width: int) -> None:
        """Begin to measure at this width, once as many rows have been answered as can have begun before."""
        self._settling = max(self.width, width)
        self.width = width
        self._since = self._began_at = None
        self._rows = self._tokens = 0
