"""One lease of kind ``canary``: from its grant to a verdict on an adapter that nobody may call yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from . import protocol
from .adapters import AdapterDamaged, AdapterStore
from .canary import EngineUnsound, canary
from .client import ControlPlane, LeaseLost
from .engine import Engine
from .engine_server import EngineDied, EngineServer, EngineTrouble

REFUSED = "canary_refused"
"""Of a verdict: no other node need try."""

log = structlog.get_logger(__name__)


class CanaryRun:
    """Its adapter is wanted from when :attr:`folder` is known; then :meth:`admit` or :meth:`refuse` it."""

    def __init__(
        self,
        grant: protocol.LeaseGrant,
        control_plane: ControlPlane,
        on_change: Callable[[], None],
        *,
        engine: Engine,
        store: AdapterStore,
        members: dict[str, int],
    ) -> None:
        self.grant = grant
        self.adapter = protocol.decode(protocol.CanaryWork, grant.work).adapter
        self.folder: Path | None = None
        self._control_plane, self._on_change = control_plane, on_change
        self._engine, self._store, self._members = engine, store, members
        self._server: EngineServer | None = None
        self._admission: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending: asyncio.Future[protocol.LeaseFailure | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Until the lease is completed, given back, or lost."""
        log.info("canary_started", lease=self.grant.id, adapter=self.adapter.name)
        self._store.hold(self.adapter)
        trial = asyncio.create_task(self._try())
        try:
            await asyncio.wait([trial, self._ending], return_when=asyncio.FIRST_COMPLETED)
            failure = trial.result() if trial.done() else self._ending.result()
            await self._close(failure, is_lost=not trial.done() and failure is None)
        finally:
            trial.cancel()
            await asyncio.gather(trial, return_exceptions=True)
            self._store.release(self.adapter)
            self._on_change()

    def admit(self, server: EngineServer) -> None:
        """The adapter is loaded there, and stays so until the run ends."""
        self._server = server
        self._admission.set_result(None)

    def refuse(self, reason: str) -> None:
        """The engine will not load the adapter."""
        if not self._admission.done():
            self._admission.set_exception(_Refused(reason))

    @property
    def is_admitted(self) -> bool:
        """Whether :meth:`admit` has been called."""
        return self._server is not None

    @property
    def is_waiting(self) -> bool:
        """Whether it can do nothing before its adapter is loaded."""
        return self.folder is not None and not self._admission.done() and not self._ending.done()

    def end(self, failure: protocol.LeaseFailure | None) -> None:
        """Stop, and give the lease back; None where it is lost."""
        if not self._ending.done():
            self._ending.set_result(failure)

    def obey(self, action: protocol.LeaseAction) -> None:
        """Do what the control plane wishes of the holder."""
        match action:
            case protocol.LeaseAction.CANCEL:
                self.end(protocol.CANCELLED)
            case protocol.LeaseAction.PAUSE:
                self.end(protocol.PAUSED)
            case protocol.LeaseAction.LOST:
                self.end(None)

    async def _try(self) -> protocol.LeaseFailure | None:
        """None when the adapter is good."""
        try:
            folder = await self._store.fetch(self._control_plane, self.grant, self.adapter)
            server = await self._engine.wait_until_ready()
            reason = await canary(
                server,
                base=self.grant.model,
                adapter=self.adapter.name,
                load=lambda: self._load(server, folder),
                members=self._members,
            )
        except (EngineDied, EngineTrouble, EngineUnsound, AdapterDamaged) as error:
            log.error("canary_failed", lease=self.grant.id, adapter=self.adapter.name, reason=str(error))
            return protocol.LeaseFailure(code=_code(error), message=str(error))
        except _Refused as refusal:
            reason = str(refusal)
        return protocol.LeaseFailure(code=REFUSED, message=reason, retryable=False) if reason else None

    async def _load(self, server: EngineServer, folder: Path) -> None:
        self.folder = folder
        self._on_change()
        await self._admission
        if self._server is not server:
            raise EngineDied("the engine was replaced during the trial")

    async def _close(self, failure: protocol.LeaseFailure | None, *, is_lost: bool) -> None:
        verdict = "lost" if is_lost else failure.code if failure else "passed"
        log.info("canary_ended", lease=self.grant.id, adapter=self.adapter.name, verdict=verdict)
        with contextlib.suppress(LeaseLost):
            if failure is not None:
                await self._control_plane.fail(self.grant, failure)
            elif not is_lost:
                await self._control_plane.complete(self.grant)


class _Refused(Exception):
    """The engine's own words."""


def _code(error: Exception) -> str:
    codes = {EngineDied: "engine_died", EngineUnsound: "engine_unsound", AdapterDamaged: "adapter_damaged"}
    return codes.get(type(error), "engine_unavailable")
