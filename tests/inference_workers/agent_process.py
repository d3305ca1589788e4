"""The node agent as a process, as an operator starts it."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.inference_workers.control_plane import TOKEN

AgentProcess = asyncio.subprocess.Process


def agent_command(config: Path, *, python: str | Path = sys.executable) -> list[str]:
    """What starts one."""
    return [str(python), "-m", "inference_workers", "agent", "--config", str(config)]


def agent_environment(url: str, *, home: Path, token: str = TOKEN) -> dict[str, str]:
    """What it needs to know, without a broker."""
    return os.environ | {
        "HONE_HOME": str(home),
        "HONE_CONTROL_PLANE_URL": url,
        "HONE_WORKER_TOKEN": token,
        "HONE_BROKER_URL": "",
    }


async def launch(
    url: str, *, home: Path, config: Path, token: str = TOKEN, python: str | Path = sys.executable
) -> AgentProcess:
    """Start one for the control plane at ``url``; its log comes through ``stderr``."""
    return await asyncio.create_subprocess_exec(
        *agent_command(config, python=python),
        env=agent_environment(url, home=home, token=token),
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )


async def end_all(agents: Iterable[AgentProcess]) -> None:
    """Kill those that still run."""
    for agent in agents:
        if agent.returncode is None:
            agent.kill()
        await agent.communicate()


async def pid_from(agent: AgentProcess, event: str) -> int:
    """The process that the agent's log says it has started."""
    assert agent.stderr is not None
    async for line in agent.stderr:
        entry = json.loads(line)
        if entry["event"] == event:
            return int(entry["pid"])
    raise AssertionError("the agent ended")
