"""One run of an engine: a process tree that answers HTTP until it dies.

Judged by ``/health``, never by its exit status: a dead vLLM answers 503 for a while, may leave a worker process
behind, and exits with status 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog

from .config import ModelConfig
from .engine_command import engine_command, engine_environment
from .online_share import EngineLoad
from .processes import ProcessTree

PROBE_SECONDS = 1.0
"""Between two looks at a healthy engine; a request that fails has it looked at at once."""
PROBE_TIMEOUT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""An engine that answers no probe for so long is dead; a busy one may well miss a few."""
STOP_GRACE_SECONDS = 5.0
LOAD_SECONDS = 120.0
"""For an adapter to be loaded: it waits for the end of the engine's step, and is read from the disk."""
IDLE_CONNECTION_SECONDS = 30.0

_LOAD = re.compile(rb"^vllm:num_requests_(running|waiting)\{[^}\n]*\} (\S+)", re.MULTILINE)

NOT_THE_ROWS_FAULT = frozenset({401, 403, 408, 429})
"""Statuses below 500 that say nothing of the request: a wrong key, a server that has no time."""

log = structlog.get_logger(__name__)


class EngineDied(Exception):
    """The engine ended, or must be ended; whatever was in flight has no answer."""


class EngineTrouble(Exception):
    """A request failed on an engine that is alive: 5xx or alike, a cut connection, or no JSON object."""


class EngineServer:
    """Use: :meth:`launch`, :meth:`wait_until_ready`, then :meth:`post` while :meth:`watch` runs, then :meth:`stop`."""

    def __init__(self, model: ModelConfig, tree: ProcessTree, session: aiohttp.ClientSession) -> None:
        self._model, self._tree, self._session = model, tree, session
        self.in_flight = self.answered = 0
        """Requests of ours: without an answer yet, and with one so far."""
        self._last_lines: deque[str] = deque(maxlen=200)
        self._suspicion = asyncio.Event()
        self._verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._forwarding = asyncio.create_task(self._forward_output())

    @classmethod
    async def launch(
        cls, model: ModelConfig, folder: Path, *, context_length: int, modules: Iterable[str], record: Path
    ) -> EngineServer:
        """Start the process on a free port of this machine, with a key that only this object knows."""
        port, api_key = _free_port(), secrets.token_urlsafe(32)
        tree = await ProcessTree.start(
            engine_command(model, folder, context_length=context_length, port=port, modules=modules),
            environment=engine_environment(model, api_key=api_key),
            record=record,
        )
        session = aiohttp.ClientSession(
            f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {api_key}"},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None),  # callers know how long a row may take
        )
        log.info("engine_started", model=model.name, pid=tree.pid, port=port)
        return cls(model, tree, session)

    @property
    def pid(self) -> int:
        return self._tree.pid

    async def wait_until_ready(self) -> None:
        """Until ``/health`` answers 200; :class:`EngineDied` when the process ends first or takes too long."""
        try:
            async with asyncio.timeout(self._model.start_timeout_seconds):
                while not await self._probe():
                    if self._tree.exit_status is not None:
                        raise EngineDied(f"the engine ended while starting: {self._last_error()}")
                    self._tree.note_members()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise EngineDied(f"the engine was not ready after {self._model.start_timeout_seconds:.0f} s") from None
        self._tree.note_members()

    async def watch(self) -> None:
        """Look after a ready engine; always ends with :class:`EngineDied`."""
        loop = asyncio.get_running_loop()
        answered = loop.time()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._suspicion.wait(), PROBE_SECONDS)
                self._suspicion.clear()
                # Whoever gets into trouble from here on waits for the next probe: this one may already be answered.
                verdict, self._verdict = self._verdict, loop.create_future()
                alive = await self._probe()
                if alive:
                    answered = loop.time()
                dead = alive is False or self._tree.exit_status is not None or loop.time() - answered > SILENCE_SECONDS
                verdict.set_result(not dead)
                if dead:
                    raise EngineDied(self._last_error())
                self._tree.note_members()
        finally:
            if not self._verdict.done():
                self._verdict.set_result(False)

    async def post(self, path: str, body: bytes, *, request_id: str) -> tuple[int, dict[str, Any]]:
        """Send one request, return status (2xx or 4xx) and JSON object.

        Raises :class:`EngineTrouble` and :class:`EngineDied`. Cancelling the call closes its connection, and with
        that aborts the request in the engine.
        """
        if self._session.closed:  # a row that was about to be tried again
            raise EngineDied("the engine was stopped")
        self.in_flight += 1
        try:
            answer = await self._post(path, body, {"Content-Type": "application/json", "X-Request-Id": request_id})
        finally:
            self.in_flight -= 1
        self.answered += 1
        return answer

    async def load(self) -> EngineLoad | None:
        """From ``/metrics``, as of the engine's last step; None when there is no answer or it does not say."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
        try:
            async with self._session.get("/metrics", timeout=timeout) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, RuntimeError):  # RuntimeError: the engine was stopped meanwhile
            return None
        numbers: dict[bytes, int] = {}
        for name, value in _LOAD.findall(content):  # one line per engine where data is parallel
            numbers[name] = numbers.get(name, 0) + int(float(value))
        return EngineLoad(numbers[b"running"], numbers[b"waiting"]) if len(numbers) == 2 else None

    async def load_adapter(self, name: str, folder: Path, *, again: bool = False) -> str | None:
        """Load the adapter in a folder under a name; why the engine refuses, or None.

        ``again``: one that is loaded is read anew. Raises :class:`EngineTrouble` and :class:`EngineDied`.
        """
        body = {"lora_name": name, "lora_path": str(folder), "load_inplace": again}
        status, answer = await self._order("/v1/load_lora_adapter", body)
        return None if status == 200 else answer

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter; one that is not loaded is fine."""
        status, answer = await self._order("/v1/unload_lora_adapter", {"lora_name": name})
        if status not in (200, 404):
            raise EngineTrouble(answer)

    async def stop(self) -> None:
        """End every process of the engine; requests in flight fail."""
        await self._tree.stop(STOP_GRACE_SECONDS)
        await self._session.close()
        await self._forwarding
        log.info("engine_stopped", model=self._model.name, pid=self.pid)

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        try:
            async with self._session.post(path, data=body, headers=headers) as response:
                content = await response.read()
                status = response.status
        except aiohttp.ClientError as error:
            raise await self._trouble(type(error).__name__) from error
        if status >= 500 or status in NOT_THE_ROWS_FAULT:
            raise await self._trouble(f"the engine answered {status}")
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise await self._trouble("the engine's answer is not a JSON object")
        return status, answer

    async def _order(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Status and text of an answer, or the message of the error in it."""
        if self._session.closed:
            raise EngineDied("the engine was stopped")
        timeout = aiohttp.ClientTimeout(total=LOAD_SECONDS)
        try:
            async with self._session.post(path, json=body, timeout=timeout) as response:
                content, status = await response.read(), response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise await self._trouble(type(error).__name__) from error
        if status >= 500:
            trouble = await self._trouble(f"the engine answered {status}")
            if isinstance(trouble, EngineDied):
                raise trouble
        try:
            return status, str(orjson.loads(content)["error"]["message"])[:500]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return status, content[:500].decode(errors="replace")

    async def _trouble(self, reason: str) -> EngineTrouble | EngineDied:
        self._suspicion.set()
        alive = await asyncio.shield(self._verdict)
        return EngineTrouble(reason) if alive else EngineDied(reason)

    async def _probe(self) -> bool | None:
        """True: well. False: dead or not there. None: no answer in time, which a busy engine is forgiven."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_SECONDS)
        try:
            async with self._session.get("/health", timeout=timeout) as response:
                return response.status == 200
        except TimeoutError:
            return None
        except aiohttp.ClientError:
            return False

    async def _forward_output(self) -> None:
        async for text in self._tree.lines():
            self._last_lines.append(text)
            log.info("engine_log", model=self._model.name, line=text)

    def _last_error(self) -> str:
        """The last line that names an error: what an operator needs to see without searching the log."""
        errors = [line for line in self._last_lines if "Error" in line or "error:" in line]
        if errors:
            return errors[-1][-500:]
        return f"exit status {self._tree.exit_status}" if self._tree.exit_status is not None else "/health failed"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
