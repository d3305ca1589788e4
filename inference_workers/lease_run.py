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
from pathlib import Path

import structlog

from . import protocol
from .adapters import AdapterDamaged, AdapterStore
from .client import ControlPlane, ControlPlaneError, LeaseLost
from .rows import Row, encode_result, failed_row, row_of

COMMIT_ROWS = 64
"""Rows that are committed at once."""
COMMIT_PART = 0.25
"""Fewer wait this part of the time that a row takes: a commit costs the machine the same for one row as for many ..."""
MIN_COMMIT_SECONDS = 0.25
MAX_COMMIT_SECONDS = 2.0
"""... but so much at most, because customers read along, and what is not committed is lost with the agent."""

log = structlog.get_logger(__name__)


class LeaseRun:
    """The rows of a lease are in :attr:`waiting`, :attr:`running`, or finished."""

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
        self.grant = grant
        self.work = protocol.decode(protocol.ShardWork, grant.work)
        self.adapter = self.work.adapter
        self.folder = Path()
        """Where the adapter is, once there are rows that wait for it."""
        self.waiting: deque[Row] = deque()
        self.running: dict[Row, asyncio.Task[None]] = {}
        self.ended = False
        """No row of this lease may start any more."""
        self._control_plane, self._on_change = control_plane, on_change
        self._members, self._store = members, store
        self._unfinished: int | None = None  # known when the input has been read
        self._finished: deque[bytes] = deque()
        self._oldest_finished_at = 0.0
        self._row_seconds = 0.0  # what a row takes, about
        self._news = asyncio.Event()
        self._failure: protocol.LeaseFailure | None = None
        self._lost, self._is_closing = asyncio.Event(), False
        self._next_segment = self.work.next_segment
        self._committed = 0
        self._log = log.bind(
            lease=grant.id,
            batch=self.work.batch_id,
            organization_id=grant.organization_id,
            model=grant.model,
            epoch=grant.epoch,
        )

    @property
    def unanswered(self) -> int:
        """Rows that still need the engine."""
        if self.ended:
            return len(self.running)
        return self.work.rows if self._unfinished is None else self._unfinished

    async def run(self) -> None:
        """Work until the lease is completed, given back, or lost. Cancelling it drops the lease without a word."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._log.info("lease_started", rows=self.work.rows, next_segment=self._next_segment)
        outcome = "dropped"
        if self.adapter is not None:
            self._store.hold(self.adapter)
        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(self._await_loss()), group.create_task(self._read())]
                await self._commit_all()
                outcome = await self._close()
                for task in background:
                    task.cancel()
        except* LeaseLost:
            outcome = "lost"
        except* ControlPlaneError as errors:
            if outcome != "lost":
                outcome = "refused"
                self._log.error("lease_refused", errors=[str(error) for error in errors.exceptions])
                await self._give_up(str(errors.exceptions[0]))
        finally:
            self._stop_rows()
            self._on_change()
            if self.adapter is not None:
                self._store.release(self.adapter)
            seconds = loop.time() - began
            self._log.info("lease_ended", outcome=outcome, committed=self._committed, seconds=round(seconds, 2))

    def end(self, failure: protocol.LeaseFailure) -> None:
        """Abort what runs, commit what has finished, and give the lease back."""
        if self._failure is None:
            self._failure = failure
            self._stop_rows()
            self._news.set()

    def obey(self, action: protocol.LeaseAction) -> None:
        """Do what the control plane wishes of the holder."""
        match action:
            case protocol.LeaseAction.CANCEL:
                self.end(protocol.LeaseFailure(code="cancelled", message="cancelled on request", retryable=False))
            case protocol.LeaseAction.PAUSE:
                self.end(protocol.LeaseFailure(code="paused", message="paused on request"))
            case protocol.LeaseAction.LOST if not self._is_closing:  # else its end has just been noted
                self._lost.set()

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

    def _stop_rows(self) -> None:
        self.ended = True
        self.waiting.clear()
        for task in self.running.values():
            task.cancel()

    async def _read(self) -> None:
        rows = await self._control_plane.read_input(self.grant)
        if self.adapter is not None:
            try:
                self.folder = await self._store.fetch(self._control_plane, self.grant, self.adapter)
            except AdapterDamaged as error:
                self.end(protocol.LeaseFailure(code="adapter_damaged", message=str(error)))
        if self.ended:
            return
        self.waiting.extend(row_of(self.grant.id, row, self._members) for row in rows)
        self._unfinished = len(rows)
        self._news.set()
        self._on_change()

    async def _await_loss(self) -> None:
        await self._lost.wait()
        raise LeaseLost("the control plane says so")

    async def _commit_all(self) -> None:
        """Until every row is committed, or the lease is to be given back and what had finished is committed."""
        while True:
            await self._wait_for_rows()
            if not self._finished:
                return
            content, rows = self._take_segment()
            await self._control_plane.put_segment(self.grant, self._next_segment, content)
            self._next_segment += 1
            self._committed += rows

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

    def _take_segment(self) -> tuple[bytes, int]:
        lines: list[bytes] = []
        size = 0
        while self._finished and len(lines) < protocol.MAX_SEGMENT_ROWS:
            size += len(self._finished[0])
            if size > protocol.MAX_SEGMENT_BYTES:
                break
            lines.append(self._finished.popleft())
        self._oldest_finished_at = asyncio.get_running_loop().time()
        return b"".join(lines), len(lines)

    async def _close(self) -> str:
        self._is_closing = True
        if self._failure is None:
            await self._control_plane.complete(self.grant)
            return "completed"
        await self._control_plane.fail(self.grant, self._failure)
        return self._failure.code

    async def _give_up(self, message: str) -> None:
        """After an answer that makes no sense for a lease we hold: let another claim try."""
        failure = protocol.LeaseFailure(code="worker_error", message=message)
        with contextlib.suppress(ControlPlaneError):
            await self._control_plane.fail(self.grant, failure)
