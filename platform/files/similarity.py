"""Rows that stand in a file twice, or nearly, found at constant memory: what has been seen lies in a scratch database.

Near duplicates by MinHash over words and pairs of words (Broder 1997), and locality-sensitive hashing to find the
candidates (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4). The sketches are rensa's; its index would
hold a kilobyte of memory a row, so the bands are written out and sorted there. A kept candidate is compared by its
sketch, so ``similarity`` is an estimate (standard error 0.05).
"""

import re
import sqlite3
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, groupby, pairwise
from operator import itemgetter
from pathlib import Path

from rensa import RMinHash

from common.storage import scratch_folder, storage_errors

SIMILAR = 0.7
"""Rows at least so much alike (shared words and pairs of words, of all that either has) are near duplicates."""
MAX_ROWS = 2_000_000
"""So many rows of a file are searched for near duplicates; the scratch database takes half a kilobyte for each."""
_SKETCH = 64
_BANDS, _BAND_ROWS = 10, 6  # a pair is a candidate with a probability of 0.95 at 0.8, of 0.25 at 0.5
_BATCH = 500
_SEED = 1
_WORDS = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+")
"""Words; of scripts that write without spaces, characters."""

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384;
PRAGMA temp_store = FILE;
CREATE TABLE seen (digest BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID;
CREATE TABLE sketch (number INTEGER PRIMARY KEY, line INTEGER, digest BLOB);
"""
_PARTS = 32
"""The bands lie in so many tables, by their values: each is sorted in a second or two, and then the work is alive."""


@dataclass(frozen=True)
class Pair:
    """A line that is like an earlier one, or, below 0, one of another file."""

    line: int
    like: int
    similarity: float


class RowIndex:
    """What one report has seen. Purposes, at most 16 ASCII characters, keep contents apart."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._waiting: list[tuple[int, str]] = []
        self._count = 0
        self._is_full = False

    @property
    def is_full(self) -> bool:
        """Whether rows were left out of the search for near duplicates."""
        return self._is_full

    def first_line(self, purpose: str, content: bytes, *, line: int) -> int | None:
        """The line at which this content was seen first; None when that is now."""
        digest = self._digest(purpose, content)
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (digest, line))
        return None if added.rowcount else self.find(purpose, content)

    def find(self, purpose: str, content: bytes) -> int | None:
        """The line at which this content was seen, if it was."""
        found = self._database.execute("SELECT line FROM seen WHERE digest = ?", (self._digest(purpose, content),))
        row = found.fetchone()
        return row[0] if row else None

    def add_text(self, text: str, *, line: int) -> None:
        """A row's text, to be compared with all others. Lines of another file are given below 0."""
        if self._count + len(self._waiting) >= MAX_ROWS:
            self._is_full = True
            return
        self._waiting.append((line, text))
        if len(self._waiting) == _BATCH:
            self._store()

    def pairs(self, beat: Callable[[], None]) -> Iterator[Pair]:
        """For each line above 0 one earlier line that it is nearly like, and one below 0, if there are such.

        ``beat`` is called every few seconds at least.
        """
        self._store()
        paired = (bytearray(self._count // 8 + 1), bytearray(self._count // 8 + 1))
        for part in range(_PARTS):
            beat()
            rows = self._database.execute(f"SELECT value, number FROM band_{part} ORDER BY value, number")  # noqa: S608
            for _, group in groupby(rows, key=itemgetter(0)):
                numbers = (number for _, number in group)
                first = next(numbers)
                if (second := next(numbers, None)) is not None:
                    beat()
                    yield from self._pairs_of(chain((first, second), numbers), paired)

    def _pairs_of(self, numbers: Iterator[int], paired: tuple[bytearray, bytearray]) -> Iterator[Pair]:
        """Compare each line above 0 with the first of those that share a band with it, and the first below 0."""
        firsts: list[tuple[int, array[int]] | None] = [None, None]
        for number in numbers:
            place, bit = number >> 3, 1 << (number & 7)
            if paired[0][place] & bit and paired[1][place] & bit:
                continue
            line, sketch = self._sketch(number)
            for which, first in enumerate(firsts):
                if line < 0 or first is None or paired[which][place] & bit:
                    continue
                similarity = _similarity(first[1], sketch)
                if similarity >= SIMILAR:
                    paired[which][place] |= bit
                    yield Pair(line, first[0], similarity)
            own = 0 if line > 0 else 1
            firsts[own] = firsts[own] or (line, sketch)

    def _store(self) -> None:
        waiting, self._waiting = self._waiting, []
        words = [_shingles(text) for _, text in waiting]
        digests = RMinHash.digests_from_token_sets(words, _SKETCH, _SEED)
        sketches: list[tuple[int, int, bytes]] = []
        bands: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]
        for (line, _), digest in zip(waiting, digests, strict=True):
            number = self._count
            self._count += 1
            sketch = array("I", digest)
            sketches.append((number, line, sketch.tobytes()))
            data = sketch.tobytes()
            step = _BAND_ROWS * sketch.itemsize
            for band in range(_BANDS):
                value = blake2b(data[band * step : (band + 1) * step], digest_size=7, salt=bytes([band])).digest()
                bands[value[-1] % _PARTS].append((int.from_bytes(value), number))
        self._database.executemany("INSERT INTO sketch VALUES (?, ?, ?)", sketches)
        for part, rows in enumerate(bands):
            self._database.executemany(f"INSERT INTO band_{part} VALUES (?, ?)", rows)  # noqa: S608

    def _sketch(self, number: int) -> tuple[int, "array[int]"]:
        line, data = self._database.execute("SELECT line, digest FROM sketch WHERE number = ?", (number,)).fetchone()
        return line, array("I", data)

    @staticmethod
    def _digest(purpose: str, content: bytes) -> bytes:
        return blake2b(content, digest_size=16, person=purpose.encode()).digest()


@contextmanager
def open_row_index() -> Iterator[RowIndex]:
    """An index in a scratch file, gone with the context, and with the process if that is killed."""
    with storage_errors(), tempfile.NamedTemporaryFile(dir=scratch_folder(), delete=False) as file:
        path = Path(file.name)
    try:
        database = sqlite3.connect(path, isolation_level=None)
        database.executescript(_SCHEMA)
        for part in range(_PARTS):
            database.execute(f"CREATE TABLE band_{part} (value INTEGER, number INTEGER)")
    finally:
        path.unlink()  # open it stays
    with closing(database):
        database.execute("BEGIN")  # never committed: nobody else reads it
        yield RowIndex(database)


def _shingles(text: str) -> list[str]:
    words = _WORDS.findall(text.lower())
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))] or [""]


def _similarity(one: "array[int]", other: "array[int]") -> float:
    return sum(map(int.__eq__, one, other)) / len(one)
