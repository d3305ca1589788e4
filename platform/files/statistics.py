"""Numbers about rows, at constant memory."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any

PERCENTILES = (1, 5, 25, 50, 75, 90, 95, 99)
_EXACT_BITS = 10
"""Numbers of so many bits are counted exactly, larger ones to within one part in 512."""


@dataclass
class Distribution:
    """Whole numbers from 0, counted in a few thousand cells however many and however large they are."""

    count: int = 0
    total: int = 0
    least: int | None = None
    most: int | None = None
    _cells: Counter[int] = field(default_factory=Counter)

    def add(self, number: int) -> None:
        """One more number."""
        self.count += 1
        self.total += number
        self.least = number if self.least is None else min(self.least, number)
        self.most = number if self.most is None else max(self.most, number)
        shift = max(0, number.bit_length() - _EXACT_BITS)
        self._cells[number >> shift << shift] += 1

    def describe(self) -> dict[str, Any] | None:
        """As JSON: least, most, mean, percentiles (nearest rank) and a histogram by powers of two; None of nothing."""
        if not self.count:
            return None
        return {
            "min": self.least,
            "max": self.most,
            "mean": round(self.total / self.count, 2),
            "total": self.total,
            "percentiles": dict(self._percentiles()),
            "histogram": list(self._histogram()),
        }

    def _percentiles(self) -> Iterator[tuple[str, int]]:
        cells = sorted(self._cells.items())
        for percent in PERCENTILES:
            rank = -(-self.count * percent // 100)
            below = 0
            for number, count in cells:
                below += count
                if below >= rank:
                    yield f"p{percent}", number
                    break

    def _histogram(self) -> Iterator[dict[str, int]]:
        """``from`` is in the bin, ``to`` is not."""
        bins: Counter[int] = Counter()
        for number, count in self._cells.items():
            bins[number.bit_length()] += count
        for bits in range(min(bins), max(bins) + 1):
            yield {"from": 1 << bits - 1 if bits else 0, "to": 1 << bits, "rows": bins[bits]}


@dataclass
class Longest:
    """The lines with the greatest numbers."""

    size: int = 10
    _heap: list[tuple[int, int]] = field(default_factory=list)

    def add(self, number: int, *, line: int) -> None:
        """One more line. Of equal ones the first is kept."""
        entry = (number, -line)
        if len(self._heap) < self.size:
            heappush(self._heap, entry)
        else:
            heappushpop(self._heap, entry)

    def describe(self, name: str) -> list[dict[str, int]]:
        """As JSON, the greatest first."""
        return [{"line": -line, name: number} for number, line in sorted(self._heap, reverse=True)]


@dataclass
class Lines:
    """How many lines, and the first of them."""

    size: int = 20
    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """One more line."""
        self.count += 1
        if len(self.first) < self.size:
            self.first.append(line)

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {"rows": self.count, "lines": self.first}


@dataclass
class LikeLines:
    """Lines that are like others: how many, and the first with what they are like."""

    size: int = 50
    count: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: int, like: int, **members: Any) -> None:
        """One more line, with what else is to be said of it."""
        self.count += 1
        if len(self.first) < self.size:
            self.first.append({"line": line, "like": like, **members})

    def describe(self) -> dict[str, Any]:
        """As JSON, by line."""
        return {"rows": self.count, "data": sorted(self.first, key=lambda pair: int(pair["line"]))}
