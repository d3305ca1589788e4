"""The supervisor, with real processes."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from infra.dev.processes import is_alive, tethered, wait_until
from infra.dev.programs import ROOT
from infra.dev.supervisor import MARKER, Backoff, Program, Supervisor, end_leftovers

FOREVER = "import signal; signal.pause()"
STUBBORN_FAMILY = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
print("family", child.pid, flush=True)
signal.pause()
"""
FAMILY_WITH_A_RUNAWAY = """
import subprocess, signal
child = subprocess.Popen(["sleep", "600"])
runaway = subprocess.Popen(["sleep", "600"], start_new_session=True)
print("family", child.pid, runaway.pid, flush=True)
signal.pause()
"""
SUPERVISE = """
import asyncio, os, sys
from pathlib import Path
from infra.dev.supervisor import Program, Supervisor
program = Program(name="family", argv=[sys.executable, "-c", sys.argv[2]], env=dict(os.environ), cwd=Path.cwd())
asyncio.run(Supervisor([program], record=Path(sys.argv[1])).run())
"""


async def test_a_dead_process_is_started_again(tmp_path: Path) -> None:
    async with supervised(tmp_path, program("one", FOREVER), program("two", FOREVER)) as run:
        first, bystander = run.pid("one"), run.pid("two")

        os.kill(first, signal.SIGKILL)

        await run.until(lambda: run.pids().get("one", first) != first)
        assert run.pid("two") == bystander
        assert psutil.Process(run.pid("one")).is_running()


async def test_restarts_are_further_and_further_apart(tmp_path: Path) -> None:
    backoff = Backoff(first=0.02, longest=0.08, healthy_after=30)

    async with supervised(tmp_path, program("broken", "raise SystemExit(3)"), backoff=backoff) as run:
        await run.until(lambda: len(run.lines("hone")) >= 5)

    assert run.lines("hone")[:5] == [
        f"broken ended with status 3, starts again in {pause} s" for pause in (0.02, 0.04, 0.08, 0.08, 0.08)
    ]


async def test_a_healthy_run_resets_the_pause(tmp_path: Path) -> None:
    backoff = Backoff(first=0.02, longest=30, healthy_after=0)

    async with supervised(tmp_path, program("short", "pass"), backoff=backoff) as run:
        await run.until(lambda: len(run.lines("hone")) >= 4)

    assert run.lines("hone")[:4] == ["short ended with status 0, starts again in 0.02 s"] * 4


async def test_a_program_starts_only_when_the_one_before_is_ready(tmp_path: Path) -> None:
    missing: list[str | None] = ["the key"]

    async def missing_of_first() -> str | None:
        return missing[0]

    first = program("first", FOREVER, missing=missing_of_first)
    async with supervised(tmp_path, first, program("second", FOREVER), wait=False) as run:
        await run.until(lambda: run.lines("hone") == ["waiting for first: the key"])
        assert set(run.pids()) == {"first"}
        assert run.ready is False

        missing[0] = None
        await run.until(lambda: run.ready)

        assert set(run.pids()) == {"first", "second"}


async def test_everything_stops_in_reverse_order(tmp_path: Path) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
        "print('hello', flush=True)\n"
        "while True: signal.pause()"
    )
    async with supervised(tmp_path, *(program(name, code) for name in ("one", "two", "three"))) as run:
        await run.until(lambda: run.output.getvalue().count("hello") == 3)

    assert [line.split("|")[0].strip() for line in run.output.getvalue().splitlines() if "bye" in line] == [
        "three", "two", "one",
    ]  # fmt: skip
    assert not run.record.exists()


async def test_a_whole_family_that_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    stubborn = program("stubborn", STUBBORN_FAMILY, grace_seconds=0.1)

    async with supervised(tmp_path, stubborn) as run:
        await run.until(lambda: run.lines("stubborn") != [])
        family = [psutil.Process(pid) for pid in (run.pid("stubborn"), *numbers(run.lines("stubborn")[0]))]

    assert len(family) == 2
    assert alive(family) == []


async def test_what_a_dead_leader_has_left_is_ended_before_the_restart(tmp_path: Path) -> None:
    async with supervised(tmp_path, program("stubborn", STUBBORN_FAMILY, grace_seconds=0.1)) as run:
        await run.until(lambda: run.lines("stubborn") != [])
        orphan = psutil.Process(*numbers(run.lines("stubborn")[0]))

        os.kill(run.pid("stubborn"), signal.SIGKILL)

        await run.until(lambda: run.lines("hone") != [])
        assert alive([orphan]) == []


async def test_a_runaway_in_a_session_of_its_own_is_ended_too(tmp_path: Path) -> None:
    async with supervised(tmp_path, program("family", FAMILY_WITH_A_RUNAWAY)) as run:
        await run.until(lambda: run.lines("family") != [])
        family = [psutil.Process(pid) for pid in numbers(run.lines("family")[0])]

    assert len(family) == 2
    assert alive(family) == []


async def test_a_second_request_to_stop_waits_for_nobody(tmp_path: Path) -> None:
    stubborn = program("stubborn", STUBBORN_FAMILY, grace_seconds=600)

    async with supervised(tmp_path, stubborn) as run:
        await run.until(lambda: run.lines("stubborn") != [])
        run.supervisor.request_stop()


def test_nothing_outlives_a_killed_supervisor_and_its_successor(tmp_path: Path) -> None:
    record = tmp_path / "run.json"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(record), FAMILY_WITH_A_RUNAWAY], cwd=ROOT, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert supervisor.stdout is not None
    children = [psutil.Process(pid) for pid in numbers(supervisor.stdout.readline())]
    leader = psutil.Process(json.loads(record.read_text())["processes"]["family"]["pid"])

    supervisor.kill()
    supervisor.wait()

    assert wait_until(lambda: not alive([leader]), timeout=5)
    end_leftovers(record)
    assert alive(children) == []
    supervisor.stdout.close()


def test_leftovers_of_another_supervisor_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER: str(tmp_path / "theirs.json")}) as theirs:
        end_leftovers(tmp_path / "ours.json")

        assert theirs.poll() is None
        theirs.kill()


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    command = tethered([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = "1"

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout, result.stderr) == (1, "", "the parent has ended\n")


async def test_long_and_unfinished_lines_are_printed(tmp_path: Path) -> None:
    code = "import sys, signal; print('x' * 200_000); sys.stdout.write('no newline'); sys.stdout.flush()"

    async with supervised(tmp_path, program("chatty", code)) as run:
        await run.until(lambda: len(run.lines("chatty")) >= 2)

    assert run.lines("chatty")[:2] == ["x" * 200_000, "no newline"]


class Run:
    """A supervisor that runs in this event loop, and what can be seen of it from outside."""

    def __init__(self, supervisor: Supervisor, output: io.StringIO) -> None:
        self.supervisor = supervisor
        self.output = output
        self.record = supervisor.record
        self.ready = False

    def pids(self) -> dict[str, int]:
        processes = json.loads(self.record.read_text())["processes"]
        return {name: process["pid"] for name, process in processes.items()}

    def pid(self, name: str) -> int:
        return self.pids()[name]

    def lines(self, name: str) -> list[str]:
        parts = (line.split("| ", 1) for line in self.output.getvalue().splitlines())
        return [text for prefix, text in parts if prefix.strip() == name]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # what is waited for happens in other processes
                await asyncio.sleep(0.01)

    def note_ready(self) -> None:
        self.ready = True


@asynccontextmanager
async def supervised(
    folder: Path, *programs: Program, backoff: Backoff | None = None, wait: bool = True
) -> AsyncIterator[Run]:
    output = io.StringIO()
    supervisor = Supervisor(programs, record=folder / "run.json", backoff=backoff or Backoff(), output=output)
    run = Run(supervisor, output)
    task = asyncio.create_task(supervisor.run(on_ready=run.note_ready))
    try:
        await run.until(lambda: run.ready or (not wait and run.record.exists()))
        yield run
    finally:
        supervisor.request_stop()
        async with asyncio.timeout(20):
            await task


def program(
    name: str,
    code: str,
    *,
    missing: Callable[[], Coroutine[Any, Any, str | None]] | None = None,
    grace_seconds: float = 5,
) -> Program:
    argv = [sys.executable, "-c", code]
    return Program(name=name, argv=argv, env=dict(os.environ), cwd=ROOT, missing=missing, grace_seconds=grace_seconds)


def numbers(line: str) -> list[int]:
    return [int(word) for word in line.split() if word.isdigit()]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]
