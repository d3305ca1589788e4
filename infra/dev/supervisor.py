"""Keeps a handful of processes running in the foreground: ordered start, restarts, and nothing left behind."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

import psutil

from infra.dev.private_files import write_private
from infra.dev.processes import is_alive, stop_signals, tethered, wait_until

MARKER = "HONE_SUPERVISOR"
"""Environment variable by which descendants of a supervisor are known, in whatever session they are."""
_COLOURS = (36, 33, 35, 32, 34, 31)
_GATE_SECONDS = (0.1, 1.0)  # between two questions: at first, at most
_LONGEST_LINE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    missing: Callable[[], Awaitable[str | None]] | None = None
    """What it still waits for, as a short text, or None once it is ready; the next program starts only then."""
    grace_seconds: float = 15.0
    """How long it may take to stop after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pauses before restarts, in seconds: doubled each time, from the first again after a healthy run."""

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 5.0


class Supervisor:
    """Starts programs in order, restarts those that die, stops them in reverse order.

    ``record`` is a JSON file rewritten at each change: ``{"pid", "ready", "processes": {name: {"pid",
    "started_at"}}}``. Every descendant carries its path in the environment, so that the next supervisor with the
    same record ends those that a killed one has left (:func:`end_leftovers`).
    """

    def __init__(
        self,
        programs: Iterable[Program],
        *,
        record: Path,
        backoff: Backoff = Backoff(),
        output: TextIO = sys.stdout,
    ) -> None:
        self.record = record
        self.backoff = backoff
        self._output = output
        self._keepers = [
            _Keeper(self, program, colour) for program, colour in zip(programs, cycle(_COLOURS), strict=False)
        ]
        self._ready = False
        self._stop = asyncio.Event()
        self.hurry = asyncio.Event()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run until :meth:`request_stop` or a signal; calls ``on_ready`` when every program is ready."""
        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, self.request_stop)
        running: list[tuple[_Keeper, asyncio.Task[None]]] = []

        def stop_when_broken(task: asyncio.Task[None]) -> None:
            if task.cancelled() or task.exception() is not None:
                self.request_stop()

        try:
            await asyncio.to_thread(end_leftovers, self.record)
            for keeper in self._keepers:
                task = asyncio.create_task(keeper.run())
                task.add_done_callback(stop_when_broken)
                running.append((keeper, task))
                await _first(task, keeper.started.wait())
                await self._gate(keeper.program)
                if self._stop.is_set():
                    break
            else:
                self._ready = True
                self.note_change()
                on_ready()
            await self._stop.wait()
        finally:
            for keeper, task in reversed(running):
                keeper.stop.set()
                await asyncio.wait([task])
            await asyncio.to_thread(end_leftovers, self.record)
            self.record.unlink(missing_ok=True)
        for _, task in running:
            task.result()

    def request_stop(self) -> None:
        """Stop everything; the second time, without waiting for anybody."""
        if self._stop.is_set():
            self.hurry.set()
        self._stop.set()

    def say(self, text: str, name: str = "hone", colour: int = 37) -> None:
        """Print one line with its origin in front."""
        prefix = f"{name:<8}| "
        if self._output.isatty():
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        with contextlib.suppress(BrokenPipeError):  # whoever read it has gone; the work goes on
            print(prefix + text, file=self._output, flush=True)

    def note_change(self) -> None:
        """Write the record anew."""
        processes = {
            keeper.program.name: {"pid": keeper.process.pid, "started_at": keeper.process.create_time()}
            for keeper in self._keepers
            if keeper.process is not None
        }
        write_private(self.record, json.dumps({"pid": os.getpid(), "ready": self._ready, "processes": processes}))

    async def _gate(self, program: Program) -> None:
        said = None
        pause, longest = _GATE_SECONDS
        while program.missing is not None and (missing := await program.missing()) is not None:
            if missing != said:
                self.say(f"waiting for {program.name}: {missing}")
                said = missing
            if await _happens(self._stop, within=pause):
                return
            pause = min(2 * pause, longest)


class _Keeper:
    """One program and its present process."""

    def __init__(self, supervisor: Supervisor, program: Program, colour: int) -> None:
        self.program = program
        self.process: psutil.Process | None = None
        self.started = asyncio.Event()
        self.stop = asyncio.Event()
        self._supervisor = supervisor
        self._colour = colour

    async def run(self) -> None:
        """Keep it running until ``stop`` is set."""
        backoff = self._supervisor.backoff
        pause = backoff.first
        while not self.stop.is_set():
            started = time.monotonic()
            status = await self._run_once()
            if self.stop.is_set():
                return
            if time.monotonic() - started >= backoff.healthy_after:
                pause = backoff.first
            self._supervisor.say(f"{self.program.name} ended with status {status}, starts again in {pause:g} s")
            await _happens(self.stop, within=pause)
            pause = min(2 * pause, backoff.longest)

    async def _run_once(self) -> int:
        read_end, write_end = os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *tethered(self.program.argv), env={**self.program.env, MARKER: str(self._supervisor.record)},
                cwd=self.program.cwd, stdin=asyncio.subprocess.DEVNULL, stdout=write_end, stderr=write_end,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(write_end)
        printer = asyncio.create_task(self._print(read_end))
        exited = asyncio.create_task(child.wait())
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process = psutil.Process(child.pid)
        self._supervisor.note_change()
        self.started.set()

        await _first(exited, self.stop.wait())
        if not exited.done():
            # To the leader only: whoever has children of its own (gunicorn, Celery) ends them in good order.
            child.terminate()
            await _first(exited, self._supervisor.hurry.wait(), within=self.program.grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what did not stop, or has lost its leader
        status = await exited
        await _first(printer, within=1)  # a process that has left the group may hold the pipe open
        printer.cancel()
        self.process = None
        self._supervisor.note_change()
        return status

    async def _print(self, read_end: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
        )
        rest = b""
        try:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._supervisor.say(line.decode(errors="replace"), self.program.name, self._colour)
            if rest:
                self._supervisor.say(rest.decode(errors="replace"), self.program.name, self._colour)
        finally:
            transport.close()


def end_leftovers(record: Path) -> None:
    """End what a killed supervisor with this record has left running.

    They are known by their environment, not by recorded numbers: those may belong to somebody else by now, and
    would miss a process that has left its parent's session.
    """
    ours = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    left = [process for process in psutil.process_iter() if process.pid not in ours and _carries(process, record)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if wait_until(lambda: not any(is_alive(process) for process in left), timeout=5):
            return


def _carries(process: psutil.Process, record: Path) -> bool:
    try:
        return process.environ().get(MARKER) == str(record)
    except (psutil.Error, OSError):
        return False


async def _happens(event: asyncio.Event, *, within: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within)
    return event.is_set()


async def _first(task: asyncio.Future[Any], *others: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Wait until the task or one of the others is done; the others are given up then, the task goes on."""
    waiters = [asyncio.ensure_future(other) for other in others]
    try:
        await asyncio.wait([task, *waiters], timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
