"""One lease from its grant to its end: reads its rows, commits segments, and closes it.

Rows run in :mod:`.batch`, which shares one engine among several leases; the node's heartbeat (:mod:`.heartbeat`)
renews them all; this side holds the rest of the contract with the control plane. Segments are numbered without gaps,
one is sent at a time, and an unanswered one is sent again byte by byte the same, so a row is committed once however
often the network fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from . import protocol
from .adapters import AdapterStore
from .client import ControlPlane
from .held_lease import HeldLease
from .rows import Row, encode_result, failed_row, row_of

COMMIT_ROWS = 64
"""Rows that are committed at once."""
COMMIT_PART = 0.25
"""Fewer wait this part of the time that a row takes: a commit costs the machine the same for one row as for many ..."""
MIN_COMMIT_SECONDS = 0.25
MAX_COMMIT_SECONDS = 2.0
"""... but so much at most, because customers read along, and what is not committed is lost with the agent."""


class LeaseRun(HeldLease):
    """A shard of a batch."""

    def __init__(
        self,
        grant: protocol.LeaseGrant,
        control_plane: ControlPlane,
        on_change: Callable[[], None],
        *,
        members: dict[str, int],
        store: AdapterStore,
    ) -> None:
        """``members`` are added to the body of every row."""
        self.work = protocol.decode(protocol.ShardWork, grant.work)
        super().__init__(
            grant, control_plane, on_change, adapter=self.work.adapter, store=store, batch=self.work.batch_id
        )
        self._members = members
        self._finished: deque[bytes] = deque()
        self._oldest_finished_at = 0.0
        self._row_seconds = 0.0  # what a row takes, about
        self._next_segment = self.work.next_segment

    @property
    def row_timeout_seconds(self) -> float:
        """As the control plane wishes."""
        return self.work.row_timeout_seconds

    @property
    def expected(self) -> int:
        """Those without a result."""
        return self.work.rows

    def finish(self, row: Row, result: protocol.RowResult, seconds: float) -> None:
        """Take a row's result, and how long it took."""
        self._row_seconds = (self._row_seconds + seconds) / 2 if self._row_seconds else seconds
        line = encode_result(result)
        if len(line) > protocol.MAX_SEGMENT_BYTES:
            line = encode_result(failed_row(row, "result_too_large", "The answer is too large.", result.request_id))
        if not self._finished:
            self._oldest_finished_at = asyncio.get_running_loop().time()
        self._finished.append(line)
        assert self._unfinished is not None  # noqa: S101  # the row came from the input
        self._unfinished -= 1
        if len(self._finished) == 1 or len(self._finished) == COMMIT_ROWS or self._unfinished == 0:
            self._news.set()

    async def _read(self) -> list[Row]:
        rows = await self._control_plane.read_input(self.grant)
        return [row_of(self.grant.id, row, self._members, endpoint=self.work.endpoint) for row in rows]

    async def _deliver(self) -> None:
        """In segments."""
        while True:
            await self._wait_for_rows()
            if not self._finished:
                return
            await self._control_plane.put_segment(self.grant, self._next_segment, self._take_segment())
            self._next_segment += 1

    async def _wait_for_rows(self) -> None:
        """Until a segment is worth sending, or no more rows will come."""
        loop = asyncio.get_running_loop()
        while self._failure is None and self._unfinished != 0 and len(self._finished) < COMMIT_ROWS:
            pace = min(MAX_COMMIT_SECONDS, max(MIN_COMMIT_SECONDS, COMMIT_PART * self._row_seconds))
            patience = self._oldest_finished_at + pace - loop.time() if self._finished else None
            if patience is not None and patience <= 0:
                return
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), patience)

    def _take_segment(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        while self._finished and len(lines) < protocol.MAX_SEGMENT_ROWS:
            size += len(self._finished[0])
            if size > protocol.MAX_SEGMENT_BYTES:
                break
            lines.append(self._finished.popleft())
        self._oldest_finished_at = asyncio.get_running_loop().time()
        return b"".join(lines)
