"""Runs leased shards on one engine and keeps it full across their ends.

The next shard is leased before the last one is done, so the engine never waits for stragglers; the older lease's rows
go first, so shards end one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from . import protocol
from .client import ControlPlane, ControlPlaneError, NodeReplaced, ProtocolUnsupported, Unauthorized
from .engine import Engine
from .engine_server import EngineDied, EngineServer
from .lease_run import LeaseRun
from .quarantine import Quarantine
from .rows import Row, answer_row, failed_row

LEASE_AHEAD = 1.5
"""Another shard is asked for while fewer than this times ``max_in_flight`` rows are unanswered."""
ENGINE_ABSENCE_SECONDS = 90.0
"""How long leases are held without an engine before another node may have them."""
UNAUTHORIZED_POLL_SECONDS = 30.0

log = structlog.get_logger(__name__)


class BatchRunner:
    """All batch work of one model on this node."""

    def __init__(self, engine: Engine, control_plane: ControlPlane, *, incarnation: str) -> None:
        self.engine = engine
        self.node_id = ""
        self.poll_seconds = 1.0
        self._draining, self._stopping = False, False
        self._control_plane, self._incarnation = control_plane, incarnation
        self._max_in_flight = engine.model.max_in_flight
        self._quarantine: Quarantine[Row] = Quarantine(self._max_in_flight)
        self._leases: dict[LeaseRun, asyncio.Task[None]] = {}
        self._fallen: list[Row] = []
        self._in_flight = 0
        self._change, self._bell = asyncio.Event(), asyncio.Event()
        engine.on_change(self._change.set)

    @property
    def in_flight(self) -> int:
        """Rows that the engine is working on."""
        return self._in_flight

    def wake(self) -> None:
        """Ask for work now: somebody said that there is some."""
        self._bell.set()

    def drain(self, draining: bool) -> None:
        """Lease nothing new (or again); what is held is finished."""
        self._draining = draining
        self._change.set()

    async def run(self) -> None:
        """Until cancelled. Raises what the agent as a whole must answer: node replaced, protocol unsupported."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_leasing())
            group.create_task(self._keep_dispatching())
            group.create_task(self._watch_engine())

    async def stop(self, seconds: float) -> None:
        """Commit what has finished and give every lease back; after that time drop what is left."""
        self._stopping = True
        self._end_leases("node_stopped", "the node was stopped")
        tasks = list(self._leases.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _keep_leasing(self) -> None:
        while True:
            while not self._wants_work():
                self._change.clear()
                await self._change.wait()
            self._bell.clear()
            pause = 0.0
            try:
                if not await self._lease():
                    pause = self.poll_seconds
            except Unauthorized as error:
                log.error("worker_token_refused", error=str(error))
                pause = UNAUTHORIZED_POLL_SECONDS
            except (ProtocolUnsupported, NodeReplaced):
                raise
            except ControlPlaneError as error:
                log.warning("no_lease", model=self.engine.model.name, error=str(error))
                pause = self.poll_seconds
            if pause:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._bell.wait(), pause)

    def _wants_work(self) -> bool:
        if self._draining or self._stopping or self.engine.server is None:
            return False
        return sum(lease.unanswered for lease in self._leases) < LEASE_AHEAD * self._max_in_flight

    async def _lease(self) -> bool:
        request = protocol.LeaseRequest(
            node_id=self.node_id,
            incarnation=self._incarnation,
            kinds=[protocol.LeaseKind.BATCH_SHARD],
            models=[self.engine.model.name],
        )
        grant = await self._control_plane.request_lease(request)
        if grant is None:
            return False
        if self._stopping:
            return True  # nobody will work on it: it expires, and another claim takes it
        try:
            lease = LeaseRun(grant, self._control_plane, self._change.set)
        except protocol.MessageError as error:
            log.error("grant_not_understood", lease=grant.id, error=str(error))
            await self._control_plane.fail(grant, protocol.LeaseFailure(code="worker_error", message=str(error)))
            return False
        task = asyncio.create_task(lease.run())
        self._leases[lease] = task
        task.add_done_callback(lambda task: self._lease_ended(lease, task))
        return True

    def _lease_ended(self, lease: LeaseRun, task: asyncio.Task[None]) -> None:
        del self._leases[lease]
        self._quarantine.forget(row for row in self._quarantine.suspects if row.lease_id == lease.grant.id)
        self._change.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("lease_crashed", lease=lease.grant.id, exc_info=error)

    async def _keep_dispatching(self) -> None:
        while True:
            server = await self.engine.wait_until_ready()
            if self._fallen and self._in_flight == 0:  # every row that the dead engine had is known by now
                self._judge()
            while not self._fallen and self._in_flight < self._quarantine.width and (work := self._next_row()):
                self._start(*work, server)
            self._change.clear()
            await self._change.wait()

    def _next_row(self) -> tuple[LeaseRun, Row] | None:
        if self._quarantine.isolating:
            row = self._quarantine.take()
            lease = self._lease_of(row) if row else None
            return (lease, row) if lease and row else None
        for lease in self._leases:
            if lease.waiting:
                return lease, lease.waiting.popleft()
        return None

    def _lease_of(self, row: Row) -> LeaseRun | None:
        """The lease that still wants the row answered."""
        return next((lease for lease in self._leases if lease.grant.id == row.lease_id and not lease.ended), None)

    def _start(self, lease: LeaseRun, row: Row, server: EngineServer) -> None:
        self._in_flight += 1
        lease.running[row] = asyncio.create_task(self._run_row(lease, row, server))

    async def _run_row(self, lease: LeaseRun, row: Row, server: EngineServer) -> None:
        try:
            result = await answer_row(
                server, row, endpoint=lease.work.endpoint, timeout_seconds=lease.work.row_timeout_seconds
            )
        except EngineDied:
            self._fallen.append(row)
        except asyncio.CancelledError:
            self._quarantine.forget([row])
            raise
        except Exception as error:  # ours: without this the lease would be held for ever, one row short
            log.exception("row_crashed", lease=row.lease_id, line=row.line)
            self._quarantine.forget([row])
            lease.end(protocol.LeaseFailure(code="worker_error", message=type(error).__name__))
        else:
            self._quarantine.answered(row)
            lease.finish(row, result)
        finally:
            self._in_flight -= 1
            lease.running.pop(row, None)
            self._change.set()

    def _judge(self) -> None:
        """Decide what happens to the rows that died with the engine: again, or never again."""
        fallen = [row for row in self._fallen if self._lease_of(row)]
        self._fallen.clear()
        for row in self._quarantine.engine_died(fallen):
            log.error("row_kills_engine", lease=row.lease_id, line=row.line)
            message = "The engine died every time it worked on this request."
            if lease := self._lease_of(row):
                lease.finish(row, failed_row(row, "worker_failure", message))

    async def _watch_engine(self) -> None:
        """Give leases back when there has been no engine for them for too long."""
        loop = asyncio.get_running_loop()
        last_seen = loop.time()
        while True:
            if self.engine.server is not None:
                last_seen = loop.time()
            elif loop.time() - last_seen > ENGINE_ABSENCE_SECONDS:
                self._end_leases("engine_unavailable", "the node has no engine for this model")
            await asyncio.sleep(1)

    def _end_leases(self, code: str, message: str) -> None:
        for lease in self._leases:
            lease.end(protocol.LeaseFailure(code=code, message=message))
