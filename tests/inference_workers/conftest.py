"""A node in the test's own event loop: a real agent's parts, a stand-in engine, a control plane in memory."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from inference_workers.adapters import AdapterStore
from inference_workers.batch import BatchRunner
from inference_workers.client import ControlPlane, ControlPlaneError
from inference_workers.config import ModelConfig
from inference_workers.engine import Engine
from inference_workers.heartbeat import Heartbeat
from tests.inference_workers.control_plane import TOKEN, FakeControlPlane
from tests.support.adapter_files import MODULES

STAND_IN = Path(__file__).parents[1] / "support" / "stand_in_engine.py"
MODEL = "stand-in"


def chat(text: str, **options: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 4} | options


def stand_in_command(latency_ms: int = 0) -> tuple[str, ...]:
    """The engine's command for a configuration."""
    return (sys.executable, str(STAND_IN), "--latency-ms", str(latency_ms))


@dataclass
class Node:
    """One model of a node at work."""

    engine: Engine
    runner: BatchRunner

    async def metric(self, name: str) -> int:
        """A number from the engine's /metrics."""
        server = await self.engine.wait_until_ready()
        async with server._session.get("/metrics") as response:  # the key is nobody's business but the engine's
            lines = (await response.text()).splitlines()
        return next(int(line.split()[-1]) for line in lines if line.startswith(name + "{"))

    async def metric_becomes(self, name: str, value: int, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while await self.metric(name) != value:  # noqa: ASYNC110  # another process's number
                await asyncio.sleep(0.02)


StartNode = Callable[..., Awaitable[Node]]


@pytest.fixture
async def control_plane() -> AsyncIterator[FakeControlPlane]:
    fake = FakeControlPlane()
    await fake.start()
    yield fake
    await fake.stop()
    assert fake.violations == []


@pytest.fixture
async def start_node(control_plane: FakeControlPlane, tmp_path: Path) -> AsyncIterator[StartNode]:
    """``await start_node(max_in_flight=8, latency_ms=20)``: leases at once what the control plane has."""
    tasks: list[asyncio.Task[None]] = []
    clients: list[ControlPlane] = []
    runners: list[BatchRunner] = []

    async def beat(heartbeat: Heartbeat) -> None:
        while True:
            with contextlib.suppress(ControlPlaneError):
                await heartbeat.beat("node_1")
            await asyncio.sleep(0.2)

    async def start(*, max_in_flight: int = 8, latency_ms: int = 0, **options: Any) -> Node:
        adapter_bytes = options.pop("adapter_bytes", 1_000_000)
        if lora := options.get("lora"):
            options["engine_args"] = {"max-loras": lora.max_loras, **options.get("engine_args", {})}
        model = ModelConfig(
            name=MODEL,
            source="folder:/nowhere",
            device="cpu",
            max_in_flight=max_in_flight,
            command=options.pop("command", stand_in_command(latency_ms)),
            **options,
        )
        engine = Engine(model, tmp_path / "model", tmp_path / "worker" / "stand-in.process.json")
        clients.append(ControlPlane(control_plane.url, TOKEN))
        if model.lora:  # as prepare and the configuration's own engine would have it
            (tmp_path / "model").mkdir(exist_ok=True)
            (tmp_path / "model" / "hone-model.json").write_text(json.dumps({"modules": MODULES}))
        store = AdapterStore(tmp_path / "adapters", max_bytes=adapter_bytes)
        runner = BatchRunner(engine, clients[-1], store, incarnation="test")
        runner.node_id, runner.poll_seconds = "node_1", 0.1
        runners.append(runner)
        heartbeat = Heartbeat(clients[-1], [runner], incarnation="test")
        tasks.extend(asyncio.create_task(work) for work in (runner.run(), engine.supervise(), beat(heartbeat)))
        await engine.wait_until_ready()
        return Node(engine, runner)

    yield start
    for runner in runners:
        await runner.stop(0)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        await client.close()
    assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
