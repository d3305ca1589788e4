"""Whatever a node starts ends with it, and nothing else does."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from inference_workers.processes import ProcessTree, process_stat, reap_leftovers, session_members

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT_OF_STUBBORN = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {STUBBORN!r}])
"""
AGENT = """
import asyncio, os, sys
from pathlib import Path
from inference_workers.processes import ProcessTree
async def main():
    command = [sys.executable, "-c", sys.argv[2]]
    tree = await ProcessTree.start(command, environment=os.environ, record=Path(sys.argv[1]))
    line = await tree.output.readline()
    tree.note_members()
    print(tree.pid, line.decode().strip(), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def gone(pid: int, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while process_stat(pid):  # noqa: ASYNC110  # another process's end
            await asyncio.sleep(0.02)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def start_agent(record: Path, program: str) -> tuple[asyncio.subprocess.Process, int, int]:
    """An agent that only starts one tree; with the tree's session and the pid that its program printed."""
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, str(record), program, stdout=asyncio.subprocess.PIPE
    )
    assert agent.stdout is not None
    session, pid = (await agent.stdout.readline()).split()
    return agent, int(session), int(pid)


async def kill(agent: asyncio.subprocess.Process) -> None:
    agent.kill()
    await agent.wait()
    agent._transport.close()  # type: ignore[attr-defined]  # its pipe is held open by the grandchild


async def test_stop_ends_a_grandchild_that_ignores_sigterm(tmp_path: Path) -> None:
    record = tmp_path / "m.process.json"
    tree = await ProcessTree.start([sys.executable, "-c", PARENT_OF_STUBBORN], environment=os.environ, record=record)
    grandchild = int(await tree.output.readline())
    assert process_stat(grandchild)
    assert record.exists()
    await tree.stop(grace_seconds=0.3)
    assert process_stat(grandchild) is None
    assert session_members(tree.pid) == []
    assert not record.exists()


async def test_stop_waits_for_a_worker_that_outlives_its_parent(tmp_path: Path) -> None:
    tree = await ProcessTree.start(
        [sys.executable, "-c", PARENT_OF_STUBBORN], environment=os.environ, record=tmp_path / "m.process.json"
    )
    grandchild = int(await tree.output.readline())
    os.kill(tree.pid, signal.SIGKILL)
    await gone(tree.pid)
    assert process_stat(grandchild)
    await tree.stop(grace_seconds=0.1)
    assert process_stat(grandchild) is None


async def test_a_killed_agent_takes_its_engine_with_it(tmp_path: Path) -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    agent, _, pid = await start_agent(tmp_path / "m.process.json", program)
    assert process_stat(pid)
    await kill(agent)
    await gone(pid)


async def test_what_the_parents_death_did_not_reach_is_reaped_at_the_next_start(tmp_path: Path) -> None:
    agent, session, grandchild = await start_agent(tmp_path / "m.process.json", PARENT_OF_STUBBORN)
    await kill(agent)
    await gone(session)  # the leader heard the signal, its child ignores it
    assert process_stat(grandchild)
    assert await reap_leftovers(tmp_path, grace_seconds=0.1) == 1
    assert process_stat(grandchild) is None
    assert names(tmp_path) == []


async def test_a_recycled_pid_is_not_killed(tmp_path: Path) -> None:
    bystander = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(600)", start_new_session=True
    )
    record = {"session": bystander.pid, "members": [{"pid": bystander.pid, "started": "another boot:12345"}]}
    (tmp_path / "m.process.json").write_text(json.dumps(record))
    assert await reap_leftovers(tmp_path, grace_seconds=0.1) == 0
    assert process_stat(bystander.pid)
    assert names(tmp_path) == []
    bystander.kill()
    await bystander.wait()


@pytest.mark.parametrize("content", ["", "{}", '{"session": "x", "members": []}', "[1]"])
async def test_a_damaged_record_is_put_away(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.process.json").write_text(content)
    assert await reap_leftovers(tmp_path, grace_seconds=0.1) == 0
    assert names(tmp_path) == []


async def test_a_command_does_not_start_without_its_parent() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inference_workers.tether",
        "1",
        "echo",
        "started",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (output, process.returncode) == (b"", 1)
    assert b"the parent process is gone" in errors
