"""Makes room on an engine that others use too. Pure: no clock, no I/O.

Batch rows already run at lower priority; this keeps them from taking what priority cannot give back at once: slots of
the engine's running batch, and the time of a step. Multiplicative decrease, then additive increase (RFC 5681, 3.1).
"""

from __future__ import annotations

SHRINK = 0.7
GROW = 0.1


class OnlineShare:
    """:attr:`part` of the best width that batch rows may use now, between ``floor`` and 1."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self.part = 1.0
        self._ours = 0

    def observe(self, *, running: int, waiting: int, ours: int) -> None:
        """Once a second: requests in the engine, those that wait in it, and how many of both are ours.

        The engine's numbers are as old as its last step. So what was ours a second ago still counts as ours: a row
        that has just ended must not be taken for somebody else's.
        """
        others = running + waiting - max(ours, self._ours)
        self._ours = ours
        if others <= 0:
            self.part = min(1.0, self.part + GROW)
        elif waiting > 0:
            self.part = max(self._floor, self.part * SHRINK)

    def limit(self, width: int) -> int:
        """Rows that may be in flight where ``width`` would be best."""
        return max(1, round(width * self.part))
