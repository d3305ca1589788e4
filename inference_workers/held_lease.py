"""What all leases have in common whose rows share an engine: rows that wait and run, and an end that is told once."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from . import protocol
from .adapters import AdapterDamaged, AdapterStore
from .client import ControlPlane, ControlPlaneError, LeaseLost
from .rows import Row

log = structlog.get_logger(__name__)


class HeldLease(ABC):
    """A lease from its grant to its end. Its rows are in :attr:`waiting`, :attr:`running`, or finished."""

    def __init__(
        self,
        grant: protocol.LeaseGrant,
        control_plane: ControlPlane,
        on_change: Callable[[], None],
        *,
        adapter: protocol.AdapterRef | None,
        store: AdapterStore,
        **facts: Any,
    ) -> None:
        """``adapter`` must be loaded while any of its rows runs; ``facts`` are what the log says of it besides."""
        self.grant = grant
        self.adapter = adapter
        self.folder = Path()
        """Where the adapter is, once there are rows that wait for it."""
        self.waiting: deque[Row] = deque()
        self.running: dict[Row, asyncio.Task[None]] = {}
        self.ended = False
        """No row of this lease may start any more."""
        self._control_plane, self._on_change, self._store = control_plane, on_change, store
        self._unfinished: int | None = None  # known when the rows have been read
        self._news = asyncio.Event()
        self._failure: protocol.LeaseFailure | None = None
        self._lost, self._is_closing = asyncio.Event(), False
        self._log = log.bind(
            lease=grant.id, organization_id=grant.organization_id, model=grant.model, epoch=grant.epoch, **facts
        )

    @property
    @abstractmethod
    def row_timeout_seconds(self) -> float:
        """How long the engine may take over one row."""

    @property
    @abstractmethod
    def expected(self) -> int:
        """How many rows there will be, while they have not been read."""

    @abstractmethod
    def finish(self, row: Row, result: protocol.RowResult, seconds: float) -> None:
        """Take a row's result, and how long it took."""

    @abstractmethod
    async def _read(self) -> list[Row]:
        """Bring the rows here."""

    @abstractmethod
    async def _deliver(self) -> None:
        """Until all is with the control plane, or the lease is to be given back and what had finished is."""

    @property
    def unanswered(self) -> int:
        """Rows that still need the engine."""
        if self.ended:
            return len(self.running)
        return self.expected if self._unfinished is None else self._unfinished

    async def run(self) -> None:
        """Work until the lease is completed, given back, or lost. Cancelling it drops the lease without a word."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._log.info("lease_started")
        outcome = "dropped"
        if self.adapter is not None:
            self._store.hold(self.adapter)
        try:
            async with asyncio.TaskGroup() as group:
                background = [group.create_task(self._await_loss()), group.create_task(self._begin())]
                await self._deliver()
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
            self._log.info("lease_ended", outcome=outcome, seconds=round(loop.time() - began, 2))

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
                self.end(protocol.CANCELLED)
            case protocol.LeaseAction.PAUSE:
                self.end(protocol.PAUSED)
            case protocol.LeaseAction.LOST if not self._is_closing:  # else its end has just been noted
                self._lost.set()

    def _stop_rows(self) -> None:
        self.ended = True
        self.waiting.clear()
        for task in self.running.values():
            task.cancel()

    async def _begin(self) -> None:
        rows = await self._read()
        if self.adapter is not None:
            try:
                self.folder = await self._store.fetch(self._control_plane, self.grant, self.adapter)
            except AdapterDamaged as error:
                self.end(protocol.LeaseFailure(code="adapter_damaged", message=str(error)))
        if self.ended:
            return
        self.waiting.extend(rows)
        self._unfinished = len(rows)
        self._news.set()
        self._on_change()

    async def _await_loss(self) -> None:
        await self._lost.wait()
        raise LeaseLost("the control plane says so")

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
