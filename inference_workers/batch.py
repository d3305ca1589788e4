"""Runs leased shards on one engine and keeps it full across their ends.

The next shard is leased before the last one is done, so the engine never waits for stragglers. Among organisations
the engine's places are shared out by weight, row by row, and work of an organisation that the node holds nothing of
is asked for however much it holds of others: nobody's rows queue behind another's. Within an organisation the older
lease's rows go first, so shards end one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import structlog

from . import protocol
from .adapter_slots import AdapterSlots
from .adapters import AdapterStore
from .canary_run import CanaryRun
from .client import ControlPlane, ControlPlaneError, NodeReplaced, ProtocolUnsupported, Unauthorized
from .engine import Engine
from .engine_command import batch_members
from .engine_server import EngineDied, EngineServer
from .evaluation_run import EvaluationRun
from .held_lease import HeldLease
from .lease_run import LeaseRun
from .pace import Pace
from .protocol import AdapterRef
from .quarantine import Quarantine
from .rows import Row, answer_row, failed_row, tokens_of

LEASE_AHEAD = 1.5
"""Another shard is asked for while fewer than this times the rows that may be in flight are unanswered."""
MAX_ORGANIZATIONS = 8
"""Others' work is asked for while the node holds work of fewer organisations: their rows are in its memory."""
IDLE_NODES_FIRST_SECONDS = 0.2
"""A node with enough to do lets those without be faster."""
OTHERS_POLLS = 5
"""A bell tells of others' work; that one was missed is found after so many times the usual poll interval."""
WATCH_SECONDS = 1.0
"""Between two looks at the engine."""
ENGINE_ABSENCE_SECONDS = 90.0
"""How long leases are held without an engine before another node may have them."""
UNAUTHORIZED_POLL_SECONDS = 30.0

log = structlog.get_logger(__name__)


class BatchRunner:
    """All batch work of one model on this node."""

    def __init__(self, engine: Engine, control_plane: ControlPlane, store: AdapterStore, *, incarnation: str) -> None:
        self.engine = engine
        self.node_id = ""
        self.poll_seconds = 1.0
        self._draining, self._stopping, self._is_announced = False, False, False
        self._control_plane, self._incarnation = control_plane, incarnation
        self._pace = Pace(engine.model)
        self._quarantine: Quarantine[Row] = Quarantine(engine.model.max_in_flight)
        self._members = batch_members(engine.model)
        self._leases: dict[HeldLease, asyncio.Task[None]] = {}
        self._canaries: dict[CanaryRun, asyncio.Task[None]] = {}
        self._fallen: list[Row] = []
        self._in_flight = 0
        self._requests = 0  # of the engine, in flight; a row may be several
        self._in_flight_of: Counter[str] = Counter()  # rows by organisation
        self._change, self._bell = asyncio.Event(), asyncio.Event()
        self._store = store
        zeros = engine.zero_adapter if engine.model.keeps_a_slot_free else None
        self._slots = AdapterSlots(engine.model.adapter_slots, store, self._change.set, zeros=zeros)
        engine.on_change(self._engine_changed)

    def wake(self) -> None:
        """Ask for work now: somebody said that there is some."""
        self._bell.set()
        self._change.set()

    def report(self) -> protocol.ModelReport:
        """The model as it is now."""
        return protocol.ModelReport(
            name=self.engine.model.name,
            state=self.engine.state,
            in_flight=self._in_flight,
            in_flight_limit=self._limit,
            tokens_per_second=round(self._pace.tokens_per_second, 1),
            message=self.engine.message,
        )

    def held(self) -> list[protocol.HeldLease]:
        """The leases to be renewed."""
        rows = [(lease.grant, len(lease.running)) for lease in self._leases]
        grants = rows + [(canary.grant, 0) for canary in self._canaries]
        return [protocol.HeldLease(id=grant.id, epoch=grant.epoch, rows_in_flight=count) for grant, count in grants]

    def obey(self, orders: protocol.NodeOrders, *, reported: protocol.ModelState) -> None:
        """Follow the answer to a report in which the model was in that state."""
        for run in self._runs:
            run.obey(orders.leases.get(run.grant.id, protocol.LeaseAction.CONTINUE))
        self._draining = orders.drain
        self._is_announced = reported is protocol.ModelState.READY
        self._change.set()

    async def run(self) -> None:
        """Until cancelled. Raises what the agent as a whole must answer: node replaced, protocol unsupported."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_leasing())
            group.create_task(self._keep_dispatching())
            group.create_task(self._keep_watching())

    async def drop_adapters(self, addresses: list[str]) -> None:
        """These have been deleted: let the engine forget them."""
        await self._slots.unload(addresses)

    async def stop(self, seconds: float) -> None:
        """Commit what has finished and give every lease back; after that time drop what is left."""
        self._stopping = True
        self._end_leases("node_stopped", "the node was stopped")
        tasks = [*self._leases.values(), *self._canaries.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def _runs(self) -> list[HeldLease | CanaryRun]:
        return [*self._leases, *self._canaries]

    @property
    def _limit(self) -> int:
        return min(self._pace.limit, self._quarantine.width)

    async def _keep_leasing(self) -> None:
        loop = asyncio.get_running_loop()
        others_at = 0.0
        while True:
            if self._needs_rows():
                without: set[str] = set()
            elif self._may_take_others() and (self._bell.is_set() or loop.time() >= others_at):
                await asyncio.sleep(IDLE_NODES_FIRST_SECONDS)
                without = self._organizations()
            else:
                self._change.clear()
                await _within(max(0.0, others_at - loop.time()) if self._may_take_others() else None, self._change)
                continue
            self._bell.clear()
            pause = await self._try_to_lease(without)
            if without:
                others_at = loop.time() + OTHERS_POLLS * pause
            elif pause:
                await _within(pause, self._bell)

    async def _try_to_lease(self, without: set[str]) -> float:
        """Ask for work once; seconds after which it makes sense to ask again, unless a bell says so before."""
        try:
            return 0.0 if await self._lease(without) else self.poll_seconds
        except Unauthorized as error:
            log.error("worker_token_refused", error=str(error))
            return UNAUTHORIZED_POLL_SECONDS
        except (ProtocolUnsupported, NodeReplaced):
            raise
        except ControlPlaneError as error:
            log.warning("no_lease", model=self.engine.model.name, error=str(error))
            return self.poll_seconds

    def _may_lease(self) -> bool:
        is_ready = self.engine.server is not None and self._is_announced
        return is_ready and not self._draining and not self._stopping

    def _needs_rows(self) -> bool:
        return self._may_lease() and sum(lease.unanswered for lease in self._leases) < LEASE_AHEAD * self._limit

    def _may_take_others(self) -> bool:
        is_calm = self._may_lease() and not self._quarantine.isolating
        return is_calm and 0 < len(self._organizations()) < MAX_ORGANIZATIONS

    def _organizations(self) -> set[str]:
        return {lease.grant.organization_id for lease in self._leases}

    async def _lease(self, without: set[str]) -> bool:
        request = protocol.LeaseRequest(
            incarnation=self._incarnation,
            kinds=self._kinds(),
            models=[self.engine.model.name],
            except_organizations=sorted(without),
        )
        grant = await self._control_plane.request_lease(self.node_id, request)
        if grant is None:
            return False
        if self._stopping:
            return True  # nobody will work on it: it expires, and another claim takes it
        try:
            self._begin(grant)
        except protocol.MessageError as error:
            log.error("grant_not_understood", lease=grant.id, error=str(error))
            await self._control_plane.fail(grant, protocol.LeaseFailure(code="worker_error", message=str(error)))
            return False
        return True

    def _kinds(self) -> list[protocol.LeaseKind]:
        kinds = [protocol.LeaseKind.BATCH_SHARD]
        if self.engine.model.adapter_slots:
            kinds += [protocol.LeaseKind.TUNED_SHARD, protocol.LeaseKind.EVALUATION]
            # Not while rows are found out that kill the engine: a canary cannot tell who did.
            if not self._canaries and not self._quarantine.isolating:
                kinds.append(protocol.LeaseKind.CANARY)
        return kinds

    def _begin(self, grant: protocol.LeaseGrant) -> None:
        plane, changed, members, store = self._control_plane, self._change.set, self._members, self._store
        if grant.kind is protocol.LeaseKind.CANARY:
            canary = CanaryRun(grant, plane, changed, engine=self.engine, store=store, members=members)
            self._canaries[canary] = asyncio.create_task(canary.run())
            self._canaries[canary].add_done_callback(lambda task: self._canary_ended(canary, task))
        else:
            kind = EvaluationRun if grant.kind is protocol.LeaseKind.EVALUATION else LeaseRun
            lease = kind(grant, plane, changed, members=members, store=store)
            self._leases[lease] = asyncio.create_task(lease.run())
            self._leases[lease].add_done_callback(lambda task: self._lease_ended(lease, task))

    def _lease_ended(self, lease: HeldLease, task: asyncio.Task[None]) -> None:
        del self._leases[lease]
        self._quarantine.forget(row for row in self._quarantine.suspects if row.lease_id == lease.grant.id)
        self._note_end(lease.grant, task)

    def _canary_ended(self, canary: CanaryRun, task: asyncio.Task[None]) -> None:
        del self._canaries[canary]
        if canary.is_admitted:
            self._slots.unpin(canary.adapter)
        self._note_end(canary.grant, task)

    def _note_end(self, grant: protocol.LeaseGrant, task: asyncio.Task[None]) -> None:
        self._change.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("lease_crashed", lease=grant.id, exc_info=error)

    async def _keep_dispatching(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            server = await self.engine.wait_until_ready()
            self._slots.attach(server)
            if self._fallen and self._in_flight == 0:  # every row that the dead engine had is known by now
                self._judge()
            while not self._fallen and self._in_flight < self._limit and (work := self._next_row()):
                self._start(*work, server)
            self._pace.dispatched(self._in_flight, now=loop.time())
            self._settle_canaries(server)
            pause = self._slots.serve(self._wanted())
            self._change.clear()
            await _within(pause, self._change)

    def _next_row(self) -> tuple[HeldLease, Row] | None:
        if self._quarantine.isolating:
            suspects = self._quarantine.suspects
            lease = self._lease_of(suspects[0]) if suspects else None
            if lease is not None and not self._slots.admits(lease.adapter):
                return None
            row = self._quarantine.take()
            return (lease, row) if lease and row else None
        leases = (lease for lease in self._leases if lease.waiting and self._slots.admits(lease.adapter))
        lease = min(leases, key=self._share_of, default=None)
        return (lease, lease.waiting.popleft()) if lease else None

    def _wanted(self) -> Iterator[tuple[AdapterRef, Path]]:
        """The adapters that something waits for, the most urgent first; what waits for one that is refused ends."""
        for canary in self._canaries:
            if canary.is_waiting and canary.folder is not None:
                yield canary.adapter, canary.folder
        suspects = [lease for row in self._quarantine.suspects[:1] if (lease := self._lease_of(row))]
        leases = sorted((lease for lease in self._leases if lease.waiting), key=self._share_of)
        for lease in suspects if self._quarantine.isolating else leases:
            if refusal := self._slots.refusal(lease.adapter):
                lease.end(protocol.LeaseFailure(code="adapter_refused", message=refusal))
            elif lease.adapter is not None:
                yield lease.adapter, lease.folder

    def _settle_canaries(self, server: EngineServer) -> None:
        for canary in self._canaries:
            if not canary.is_waiting:
                continue
            if refusal := self._slots.refusal(canary.adapter):
                canary.refuse(refusal)
            elif self._slots.admits(canary.adapter):
                self._slots.pin(canary.adapter)
                canary.admit(server)

    def _share_of(self, lease: HeldLease) -> float:
        """Rows in flight per weight of the lease's organisation."""
        return self._in_flight_of[lease.grant.organization_id] / lease.grant.weight

    def _lease_of(self, row: Row) -> HeldLease | None:
        """The lease that still wants the row answered."""
        return next((lease for lease in self._leases if lease.grant.id == row.lease_id and not lease.ended), None)

    def _start(self, lease: HeldLease, row: Row, server: EngineServer) -> None:
        self._in_flight += 1
        self._requests += row.requests
        self._in_flight_of[lease.grant.organization_id] += 1
        self._slots.pin(lease.adapter)
        lease.running[row] = asyncio.create_task(self._run_row(lease, row, server))

    async def _run_row(self, lease: HeldLease, row: Row, server: EngineServer) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            result = await answer_row(server, row, timeout_seconds=lease.row_timeout_seconds)
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
            lease.finish(row, result, loop.time() - began)
            self._pace.answered(tokens_of(result), now=loop.time())
        finally:
            self._in_flight -= 1
            self._requests -= row.requests
            self._in_flight_of -= Counter([lease.grant.organization_id])  # which forgets those that have none
            self._slots.unpin(lease.adapter)
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
                lease.finish(row, failed_row(row, "worker_failure", message), 0.0)

    async def _keep_watching(self) -> None:
        """Follow the engine's load while rows run, and give leases back when it is gone for too long."""
        loop = asyncio.get_running_loop()
        last_seen = loop.time()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            server = self.engine.server
            if server is not None:
                last_seen = loop.time()
            elif loop.time() - last_seen > ENGINE_ABSENCE_SECONDS:
                self._end_leases("engine_unavailable", "the node has no engine for this model")
            if server is not None and self._in_flight > 0:
                ours = self._requests
                load = await server.load() if self._pace.wants_load() else None
                self._pace.passed(load, ours=ours, now=loop.time())
                self._change.set()

    def _engine_changed(self) -> None:
        if self.engine.is_out:
            self._end_leases("engine_unavailable", f"the engine of this model {self.engine.message}")
        self._change.set()

    def _end_leases(self, code: str, message: str) -> None:
        for run in self._runs:
            run.end(protocol.LeaseFailure(code=code, message=message))


async def _within(seconds: float | None, event: asyncio.Event) -> None:
    """Wait for an event, but no longer than that; None is for ever."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
