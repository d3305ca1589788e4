"""Makes room on an engine that others use too. Pure: no clock, no I/O.

Batch rows already run at lower priority; this keeps them from taking what priority cannot give back at once: slots of
the engine's running batch, and the time of a step. Multiplicative decrease, then additive increase (RFC 5681, 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

SHRINK = 0.7
GROW = 0.1


@dataclass(frozen=True)
class EngineLoad:
    """Requests in an engine, whosever they are."""

    running: int
    waiting: int


class OnlineShare:
    """:attr:`part` of the best width that batch rows may use now, between ``floor`` and 1."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self.part = 1.0
        self.has_company = False
        """Whether there were requests of others at the last look."""
        self._ours = 0

    def observe(self, load: EngineLoad | None, *, ours: int) -> None:
        """Once a second: requests of ours, and of all if somebody has looked.

        The engine's numbers are as old as its last step. So what was ours a second ago still counts as ours: a row
        that has just ended must not be taken for somebody else's.
        """
        ours, self._ours = max(ours, self._ours), ours
        if load is None:
            return
        self.has_company = load.running + load.waiting > ours
        if not self.has_company:
            self.part = min(1.0, self.part + GROW)
        elif load.waiting > 0:
            self.part = max(self._floor, self.part * SHRINK)

    def limit(self, width: int) -> int:
        """Rows that may be in flight where ``width`` would be best."""
        return max(1, round(width * self.part))
