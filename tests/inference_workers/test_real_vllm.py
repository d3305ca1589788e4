"""The agent with real vLLM and a real model on this machine's CPU: minutes, so one story in one test."""

import asyncio
import json
import os
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from inference_workers import protocol
from inference_workers.processes import ProcessStat, process_stat, session_members
from tests.inference_workers.agent_process import launch
from tests.inference_workers.control_plane import FakeControlPlane, Shard

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-worker" / "bin" / "python"
CONFIG = ROOT / "infra" / "dev" / "node.toml"
MODEL = "smollm2-135m-instruct"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]


def chat(text: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


class Agent:
    """A real agent; its log is read so that the test knows the engine's pid and port."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.engine_pid = self.engine_port = 0
        self.log: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, control_plane: FakeControlPlane, home: Path, config: Path = CONFIG) -> "Agent":
        return cls(await launch(control_plane.url, home=home, config=config, python=PYTHON))

    async def until_ready(self, times: int) -> None:
        async with asyncio.timeout(400):
            while sum(entry.get("state") == "ready" for entry in self.log) < times:
                self._changed.clear()
                await self._changed.wait()

    def engine(self) -> list[ProcessStat]:
        return session_members(self.engine_pid)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            entry = json.loads(line)
            self.log.append(entry)
            if entry["event"] == "engine_started":
                self.engine_pid, self.engine_port = entry["pid"], entry["port"]
            self._changed.set()


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A home of its own with the developer's model, which is brought once."""
    developers = ROOT / ".hone"
    preparation = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "inference_workers", "prepare", "--config", CONFIG),
        env=os.environ | {"HONE_HOME": str(developers)},
    )
    assert await preparation.wait() == 0
    (tmp_path / "models").symlink_to(developers / "models")
    return tmp_path


async def metric(agent: Agent, *names: str) -> int:
    """The sum of those numbers of the engine's /metrics."""
    url = f"http://127.0.0.1:{agent.engine_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        lines = (await response.text()).splitlines()
    prefixes = tuple(f"vllm:{name}{{" for name in names)
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(prefixes))


async def running(agent: Agent) -> int:
    """Requests that vLLM works on or holds in its queue."""
    return await metric(agent, "num_requests_running", "num_requests_waiting")


async def until_running(agent: Agent, *, some: bool, seconds: float) -> float:
    """Until requests run (or none does); the seconds that took."""
    began = monotonic()
    async with asyncio.timeout(seconds):
        while (await running(agent) > 0) != some:  # noqa: ASYNC110  # another process's number
            await asyncio.sleep(0.05)
    return monotonic() - began


def process_named(agent: Agent, name: str) -> int:
    """The engine's process with that title (vLLM sets one)."""
    for member in agent.engine():
        if name in Path(f"/proc/{member.pid}/cmdline").read_text():
            return member.pid
    raise AssertionError(f"no process {name}")


def answered_well(shard: Shard) -> None:
    assert sorted(shard.results) == sorted(shard.rows)
    for result in shard.results.values():
        assert result["status"] == 200, result
        assert result["body"]["usage"]["completion_tokens"] > 0


async def test_a_real_engine_works_aborts_and_is_replaced(control_plane: FakeControlPlane, home: Path) -> None:
    agent = await Agent.start(control_plane, home)
    try:
        await agent.until_ready(1)

        first = control_plane.add(MODEL, [chat(f"What is {row} plus {row}?", 16) for row in range(64)])
        await control_plane.until(control_plane.all_done, seconds=300)
        answered_well(first)
        (model,) = control_plane.reports[-1]["models"]
        assert model["tokens_per_second"] > 0
        assert model["in_flight_limit"] == 64

        cancelled = control_plane.add(MODEL, [chat(f"Tell a long story about {row}.", 1500) for row in range(64)])
        produced = await metric(agent, "generation_tokens_total")
        async with asyncio.timeout(60):  # the prompts are one long step, and an abort waits for a step's end
            while await metric(agent, "generation_tokens_total") < produced + 128:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.05)
        cancelled.wish = protocol.LeaseAction.CANCEL
        began = monotonic()
        await control_plane.until(lambda: cancelled.state == "failed", seconds=2)
        await until_running(agent, some=False, seconds=2.0 - (monotonic() - began))
        assert [failure["code"] for failure in cancelled.failures] == ["cancelled"]

        for number, name in enumerate(["api_server", "VLLM::EngineCore"], start=2):
            shard = control_plane.add(MODEL, [chat(f"Count to {row}.", 16) for row in range(64)])
            await until_running(agent, some=True, seconds=20)
            session = agent.engine_pid
            os.kill(process_named(agent, name), signal.SIGKILL)
            await agent.until_ready(number)
            assert session_members(session) == []
            await control_plane.until(lambda shard=shard: shard.state == "completed", seconds=300)  # type: ignore[misc]  # bound now
            answered_well(shard)
            # On a busy machine an engine may take longer to start than a lease is kept without one.
            assert {failure["code"] for failure in shard.failures} <= {"engine_unavailable"}

        engine = agent.engine()
        assert len(engine) >= 2
        agent.process.kill()
        await agent.end()
        async with asyncio.timeout(15):
            while any(process_stat(member.pid) for member in engine):  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.05)
    finally:
        await agent.end()
