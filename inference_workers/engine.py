"""Keeps one model's engine alive: starts it, watches it, and starts another when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from .adapters import write_zero_adapter
from .config import ModelConfig
from .engine_server import EngineDied, EngineServer
from .flapping import Flapping
from .prepare import read_card
from .processes import kill_session
from .protocol import ModelState

BACK_OFF_SECONDS = 1.0
"""Before another try. It need not grow: an engine that dies again and again is soon left alone for long."""
STABLE_SECONDS = 120.0
"""An engine that was ready for so long could work, whether or not it was asked to."""

log = structlog.get_logger(__name__)


class Engine:
    """The supervised engine of a model; :attr:`server` is there exactly while it is ready."""

    def __init__(self, model: ModelConfig, folder: Path, record: Path) -> None:
        self.model = model
        self.state = ModelState.STARTING
        self.message = ""
        self.server: EngineServer | None = None
        self.is_out = False
        """It flaps and is left alone for a long time: its work is for others."""
        self._folder, self._record = folder, record
        self._running: EngineServer | None = None
        self._flapping = Flapping(model.max_in_flight)
        self._ready = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` at every change of state."""
        self._listeners.append(listener)

    async def wait_until_ready(self) -> EngineServer:
        """The running server, now or when there is one again."""
        while self.server is None:
            await self._ready.wait()
        return self.server

    def zero_adapter(self) -> Path | None:
        """The folder of an adapter of zeros for this model; None where the modules of the model are not known."""
        modules = (read_card(self._folder) or {}).get("modules")
        return write_zero_adapter(self._record.with_suffix(".zeros"), modules) if modules else None

    async def supervise(self) -> None:
        """Run until cancelled; then no process of the engine is left."""
        loop = asyncio.get_running_loop()
        while True:
            self.is_out = False
            self._change(ModelState.STARTING, "")
            ready_at = None
            pause = BACK_OFF_SECONDS
            try:
                self._running = await self._launch()
                await self._running.wait_until_ready()
                ready_at = loop.time()
                self._change(ModelState.READY, "", self._running)
                await self._running.watch()
            except EngineDied as death:
                was_stable = ready_at is not None and loop.time() - ready_at > STABLE_SECONDS
                verdict = self._flapping.died(
                    now=loop.time(),
                    had_rows=self._running is not None and self._running.in_flight > 0,
                    could_work=was_stable or (self._running is not None and self._running.answered > 0),
                )
                if verdict:
                    self.is_out, pause = True, self.model.restart_pause_seconds
                reason = f"{verdict}: {death}" if verdict else str(death)
                log.warning("engine_died", model=self.model.name, reason=reason, restart_in_seconds=pause)
                self._change(ModelState.FAILED, reason)
            finally:
                self.server = None
                self._ready.clear()
                if self._running is not None:
                    await asyncio.shield(self._running.stop())
                    self._running = None
            await asyncio.sleep(pause)

    def kill(self) -> None:
        """End the engine at once, without waiting; only for an agent that ends in the same moment."""
        if self._running is not None:
            kill_session(self._running.pid)

    async def _launch(self) -> EngineServer:
        card = read_card(self._folder)
        if card is None and not self.model.command:
            raise EngineDied("the model is not on this machine: run `python -m inference_workers prepare`")
        context_length = self.model.max_model_len or int((card or {}).get("context_length", 0))
        try:
            return await EngineServer.launch(
                self.model,
                self._folder,
                context_length=context_length,
                modules=(card or {}).get("modules", {}),
                record=self._record,
            )
        except OSError as error:
            raise EngineDied(f"the engine's command could not be started: {error}") from error

    def _change(self, state: ModelState, message: str, server: EngineServer | None = None) -> None:
        self.state, self.message, self.server = state, message, server
        if server is None:
            self._ready.clear()
        else:
            self._ready.set()
        log.info("engine_state", model=self.model.name, state=state, message=message)
        for listener in self._listeners:
            listener()
