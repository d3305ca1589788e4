"""Keeps one model's engine alive: starts it, watches it, and starts another when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from .config import ModelConfig
from .engine_server import EngineDied, EngineServer
from .prepare import read_card
from .processes import kill_session
from .protocol import ModelState

BACK_OFF_SECONDS = 1.0
MAX_BACK_OFF_SECONDS = 60.0
STABLE_SECONDS = 120.0
"""An engine that was ready for so long starts the next back-off from the beginning."""

log = structlog.get_logger(__name__)


class Engine:
    """The supervised engine of a model; :attr:`server` is there exactly while it is ready."""

    def __init__(self, model: ModelConfig, folder: Path, record: Path) -> None:
        self.model = model
        self.state = ModelState.STARTING
        self.message = ""
        self.server: EngineServer | None = None
        self._folder, self._record = folder, record
        self._running: EngineServer | None = None
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

    async def supervise(self) -> None:
        """Run until cancelled; then no process of the engine is left."""
        loop = asyncio.get_running_loop()
        back_off = BACK_OFF_SECONDS
        while True:
            self._change(ModelState.STARTING, "")
            ready_at = None
            try:
                self._running = await self._launch()
                await self._running.wait_until_ready()
                ready_at = loop.time()
                self._change(ModelState.READY, "", self._running)
                await self._running.watch()
            except EngineDied as death:
                if ready_at is not None and loop.time() - ready_at > STABLE_SECONDS:
                    back_off = BACK_OFF_SECONDS
                log.warning("engine_died", model=self.model.name, reason=str(death), restart_in_seconds=back_off)
                self._change(ModelState.FAILED, str(death))
            finally:
                self.server = None
                self._ready.clear()
                if self._running is not None:
                    await asyncio.shield(self._running.stop())
                    self._running = None
            await asyncio.sleep(back_off)
            back_off = min(2 * back_off, MAX_BACK_OFF_SECONDS)

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
                self.model, self._folder, context_length=context_length, record=self._record
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
