"""Finds the row that kills the engine, without blaming its neighbours. Pure bookkeeping: no clock, no I/O.

Rows in flight when an engine died are suspects. The next engine gets suspects only, and at most half as many at once
as had died, so that after log2(n) more deaths a poisonous row dies alone; a row that has died alone twice (once may
be a coincidence: an operator's kill, a machine out of memory) is convicted. Who is answered is acquitted; when
nothing has died for a whole round the width grows again, so an engine killed from outside costs little.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

DEATHS_ALONE = 2

Row = TypeVar("Row", bound=Hashable)


class Quarantine(Generic[Row]):
    """:attr:`width` is how many rows may be in flight; while :attr:`isolating`, only those that :meth:`take` gives."""

    def __init__(self, full_width: int) -> None:
        self._full_width = full_width
        self.width = full_width
        self._waiting: deque[Row] = deque()
        self._running: set[Row] = set()
        self._deaths_alone: Counter[Row] = Counter()
        self._answers_since_death = 0

    @property
    def isolating(self) -> bool:
        """Whether there are suspects, waiting or in flight."""
        return bool(self._waiting or self._running)

    @property
    def suspects(self) -> tuple[Row, ...]:
        """Those that wait for their turn."""
        return tuple(self._waiting)

    def take(self) -> Row | None:
        """The next suspect to run; None while the last ones are in flight."""
        if not self._waiting:
            return None
        row = self._waiting.popleft()
        self._running.add(row)
        return row

    def engine_died(self, rows: Sequence[Row]) -> list[Row]:
        """Note a death with ``rows`` in flight; returns those that are convicted and must not run again."""
        self._answers_since_death = 0
        self._running.clear()
        if len(rows) == 1:
            self._deaths_alone[rows[0]] += 1
            if self._deaths_alone[rows[0]] >= DEATHS_ALONE:
                self.forget(rows)
                return list(rows)
        if rows:
            self.width = max(1, len(rows) // 2)
        self._waiting.extendleft(reversed(rows))
        return []

    def answered(self, row: Row) -> None:
        """A row has its answer: it is innocent."""
        self._answers_since_death += 1
        if self._answers_since_death > self.width:
            self.width = min(self.width + 1, self._full_width)
        self.forget([row])

    def forget(self, rows: Iterable[Row]) -> None:
        """Rows that will not run again."""
        gone = set(rows)
        self._running -= gone
        if any(row in gone for row in self._waiting):
            self._waiting = deque(row for row in self._waiting if row not in gone)
        for row in gone:
            self._deaths_alone.pop(row, None)
        if not self.isolating:
            self.width = self._full_width
