"""The agent as a process: starts, works, and ends as its operator and its control plane expect."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from inference_workers.processes import process_stat
from tests.inference_workers.agent_process import AgentProcess, end_all, launch, pid_from
from tests.inference_workers.conftest import MODEL, chat, stand_in_command
from tests.inference_workers.control_plane import TOKEN, FakeControlPlane
from tests.inference_workers.test_processes import gone
from tests.support.adapter_files import distinct_contents, reference, write
from tests.support.stand_in_engine import SLOW

StartAgent = Callable[..., Awaitable[AgentProcess]]


@pytest.fixture
async def start_agent(control_plane: FakeControlPlane, tmp_path: Path) -> AsyncIterator[StartAgent]:
    processes: list[AgentProcess] = []

    async def start(*, latency_ms: int = 10, token: str = TOKEN) -> AgentProcess:
        config = tmp_path / "node.toml"
        command = json.dumps(stand_in_command(latency_ms))
        config.write_text(
            f'[node]\nname = "n"\n[[models]]\nname = "{MODEL}"\nsource = "folder:/nowhere"\ndevice = "cpu"\n'
            f"max_in_flight = 8\ncommand = {command}\n"
        )
        process = await launch(control_plane.url, home=tmp_path / "home", config=config, token=token)
        processes.append(process)
        return process

    yield start
    await end_all(processes)


async def engine_pid(agent: AgentProcess) -> int:
    return await pid_from(agent, "engine_started")


async def test_an_agent_introduces_itself_reports_and_works(
    control_plane: FakeControlPlane, start_agent: StartAgent
) -> None:
    shard = control_plane.add(MODEL, [chat(f"row {row}") for row in range(20)])
    await start_agent()
    await control_plane.until(control_plane.all_done)
    (hello,) = control_plane.hellos
    assert (hello["name"], hello["models"], hello["protocol"]) == ("n", [MODEL], 2)
    assert hello["hardware"]["cpus"] >= 1
    assert control_plane.reports[-1]["models"][0]["state"] == "ready"
    assert len(shard.results) == 20


async def test_sigterm_gives_the_leases_back_and_leaves_nothing(
    control_plane: FakeControlPlane, start_agent: StartAgent
) -> None:
    shard = control_plane.add(MODEL, [chat("quick"), chat(SLOW)])
    agent = await start_agent()
    pid = await engine_pid(agent)
    await control_plane.until(lambda: len(shard.results) == 1)
    agent.terminate()
    async with asyncio.timeout(5):
        _, log = await agent.communicate()
    assert agent.returncode == 0
    assert [(failure["code"], failure["retryable"]) for failure in shard.failures] == [("node_stopped", True)]
    assert list(shard.results) == [1]
    assert process_stat(pid) is None
    assert TOKEN.encode() not in log
    assert SLOW.encode() not in log  # a prompt


async def test_a_second_signal_ends_at_once(control_plane: FakeControlPlane, start_agent: StartAgent) -> None:
    shard = control_plane.add(MODEL, [chat(SLOW)])
    agent = await start_agent()
    pid = await engine_pid(agent)
    await control_plane.until(lambda: shard.beats > 0)
    control_plane.down = True  # giving the lease back takes as long as it may
    agent.send_signal(signal.SIGINT)
    await asyncio.sleep(0.5)
    agent.send_signal(signal.SIGINT)
    async with asyncio.timeout(2):
        await agent.communicate()
    assert agent.returncode == 1
    await gone(pid, seconds=2)


async def test_a_killed_agents_work_is_done_by_the_next(
    control_plane: FakeControlPlane, start_agent: StartAgent
) -> None:
    shard = control_plane.add(MODEL, [chat(f"row {row}") for row in range(60)])
    agent = await start_agent(latency_ms=100)
    pid = await engine_pid(agent)
    await control_plane.until(lambda: len(shard.results) >= 16)
    agent.kill()
    await agent.communicate()
    shard.state = "queued"  # the sweeper's part
    await start_agent(latency_ms=10)
    await control_plane.until(control_plane.all_done)
    assert process_stat(pid) is None
    assert len(shard.results) == 60
    assert shard.epoch == 2


async def test_an_agent_that_is_too_old_says_so(control_plane: FakeControlPlane, start_agent: StartAgent) -> None:
    control_plane.hello_error = 426, "protocol_unsupported"
    agent = await start_agent()
    _, log = await agent.communicate()
    assert agent.returncode == 78
    assert b"protocol_unsupported" in log


async def test_an_agent_that_was_replaced_ends(control_plane: FakeControlPlane, start_agent: StartAgent) -> None:
    control_plane.report_error = 409, "node_replaced"
    agent = await start_agent()
    pid = await engine_pid(agent)
    _, log = await agent.communicate()
    assert agent.returncode == 75
    assert b"node_replaced" in log
    assert process_stat(pid) is None


async def test_a_forgotten_node_says_hello_again(control_plane: FakeControlPlane, start_agent: StartAgent) -> None:
    await start_agent()
    await control_plane.until(lambda: len(control_plane.reports) > 0)
    control_plane.report_error = 404, "node_unknown"
    await control_plane.until(lambda: len(control_plane.hellos) == 2)
    control_plane.report_error = None
    shard = control_plane.add(MODEL, [chat("hello")])
    await control_plane.until(lambda: shard.state == "completed")


async def test_adapters_that_have_been_deleted_go_from_the_disk(
    control_plane: FakeControlPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    folder = tmp_path / "home" / "adapters"
    contents = {name: distinct_contents(name) for name in ("ft:kept", "ft:deleted")}
    kept, deleted = [reference(name, content).address for name, content in contents.items()]
    for address, content in zip((kept, deleted), contents.values(), strict=True):
        write(folder / address, content)
    control_plane.deleted = {deleted}
    await start_agent()
    await control_plane.until(lambda: control_plane.inventories != [])
    assert sorted(control_plane.inventories[0]) == sorted([kept, deleted])
    async with asyncio.timeout(5):
        while [path.name for path in folder.iterdir()] != [kept]:  # noqa: ASYNC110  # another process's doing
            await asyncio.sleep(0.02)


async def test_orders_to_drain_are_followed(control_plane: FakeControlPlane, start_agent: StartAgent) -> None:
    control_plane.orders_drain = True
    await start_agent()
    await control_plane.until(lambda: any(r["models"][0]["state"] == "ready" for r in control_plane.reports))
    shard = control_plane.add(MODEL, [chat("hello")])
    reports = len(control_plane.reports)
    await control_plane.until(lambda: len(control_plane.reports) > reports + 3)
    assert shard.state == "queued"
    control_plane.orders_drain = False
    await control_plane.until(lambda: shard.state == "completed")


async def test_a_wrong_configuration_ends_with_its_reason(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[node]\nnaem = 'n'\n[[models]]\n")
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_workers", "agent", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await agent.communicate()
    assert agent.returncode == 78
    assert b"node.name is missing" in errors
