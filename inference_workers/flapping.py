"""Tells an engine that cannot work from one that had a bad row or a bad moment. Pure: no clock, no I/O.

Only deaths in a row count: an answer in between says that the engine can work. With rows in flight a death may be a
row's fault, and to find that row by bisection (:mod:`.quarantine`) takes ``log2(n) + 2`` deaths of n rows, none of
which need leave time for an answer; an engine that dies without any has no such excuse.
"""

from __future__ import annotations

IDLE_DEATHS = 4


class Flapping:
    """:meth:`died` at every death; its answer is the verdict."""

    def __init__(self, max_in_flight: int) -> None:
        self._limit = (max_in_flight - 1).bit_length() + 3
        self._since: float | None = None
        self._deaths = self._idle_deaths = 0

    def died(self, *, now: float, had_rows: bool, could_work: bool) -> str | None:
        """Why the engine should be left alone, or None: another one may be started.

        ``had_rows``: some were in flight. ``could_work``: this one had answered a row, or had been well for long.
        """
        if could_work or self._since is None:
            self._since = now
            self._deaths = self._idle_deaths = 0
        self._deaths += 1
        self._idle_deaths = 0 if had_rows else self._idle_deaths + 1
        if self._deaths < self._limit and self._idle_deaths < IDLE_DEATHS:
            return None
        return f"died {self._deaths} times within {now - self._since:.0f} s"
