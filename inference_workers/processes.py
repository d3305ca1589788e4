"""Process trees that leave nothing behind.

Every tree gets a session of its own, so that its members can be found however they were forked; a parent-death
signal, so that it ends with the agent; and a record on disk, so that an agent that starts after a crash ends what
that signal did not reach. A record names processes by pid *and* start time: a pid alone may have been recycled.

Source: proc_pid_stat(5), setsid(2). While one member of a session lives the kernel does not hand out the session's
number again, so one member that is certainly ours makes the whole session ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

POLL_SECONDS = 0.05
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ProcessStat:
    """What the kernel says of a process that has not ended (a zombie has)."""

    pid: int
    session: int
    started: str
    """Boot id and clock ticks since that boot: unlike a wall clock it does not move."""


def process_stat(pid: int) -> ProcessStat | None:
    """The process of that number, or None when there is none or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    if fields[0] in "ZX":
        return None
    return ProcessStat(pid=pid, session=int(fields[3]), started=f"{boot}:{fields[19]}")


def session_members(session: int) -> list[ProcessStat]:
    """Every living process of a session, whatever its process group."""
    members = []
    for entry in os.listdir("/proc"):  # noqa: PTH208  # names alone, many times a second
        if not entry.isdecimal():
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(entry)) == session and (stat := process_stat(int(entry))):
                members.append(stat)
    return members


class ProcessTree:
    """A running command with everything it has started in its session."""

    def __init__(self, process: asyncio.subprocess.Process, record: Path) -> None:
        self._process, self._record = process, record
        self._recorded: set[ProcessStat] = set()
        self.note_members()

    @classmethod
    async def start(cls, command: Sequence[str], *, environment: Mapping[str, str], record: Path) -> ProcessTree:
        """Start a command; its output, both streams, comes through :attr:`output`.

        Must run in the main thread: the parent-death signal is sent when the *thread* that forked ends.
        """
        record.parent.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *tethered(command),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        return cls(process, record)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None  # noqa: S101  # start() asked for the pipe
        return self._process.stdout

    async def lines(self) -> AsyncIterator[str]:
        """What the tree prints, without empty lines, until it prints no more."""
        while True:
            try:
                line = await self.output.readline()
            except ValueError:  # longer than the buffer, which has been thrown away
                continue
            if not line:
                return
            if text := line.decode(errors="replace").replace("\0", "").rstrip():
                yield text

    @property
    def exit_status(self) -> int | None:
        """Of the command itself; its children may live on."""
        return self._process.returncode

    async def wait(self, seconds: float) -> None:
        """Until the command itself has ended, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)

    def note_members(self) -> None:
        """Bring the record on disk up to date; call it now and then, trees grow."""
        members = set(session_members(self.pid))
        if members and members != self._recorded:
            self._recorded = members
            content = [{"pid": member.pid, "started": member.started} for member in members]
            partial = self._record.with_suffix(".partial")
            partial.write_text(json.dumps({"session": self.pid, "members": content}), encoding="utf-8")
            partial.replace(self._record)

    async def stop(self, grace_seconds: float) -> None:
        """End the whole tree: SIGTERM, after the grace SIGKILL; returns when no member is left."""
        await end_session(self.pid, grace_seconds)
        await self._process.wait()
        self._record.unlink(missing_ok=True)


def tethered(command: Sequence[str]) -> list[str]:
    """The command line of ``command`` with a parent-death signal; see :mod:`.tether`."""
    return [sys.executable, "-m", "inference_workers.tether", str(os.getpid()), *command]


async def end_session(session: int, grace_seconds: float) -> None:
    """Terminate every process of a session and wait until all are gone."""
    deadline = asyncio.get_running_loop().time() + grace_seconds
    _signal(session_members(session), signal.SIGTERM)
    while members := session_members(session):
        if asyncio.get_running_loop().time() >= deadline:
            _signal(members, signal.SIGKILL)
        await asyncio.sleep(POLL_SECONDS)


def kill_session(session: int) -> None:
    """End every process of a session at once and do not wait."""
    _signal(session_members(session), signal.SIGKILL)


async def reap_leftovers(folder: Path, grace_seconds: float) -> int:
    """End the trees that an agent which died left behind; the number of trees that were still alive."""
    reaped = 0
    for record in sorted(folder.glob("*.process.json")):  # noqa: ASYNC240  # nothing else runs yet
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            session = int(content["session"])
            known = {(int(member["pid"]), str(member["started"])) for member in content["members"]}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("process_record_unreadable", record=record.name, error=str(error))
        else:
            living = [process_stat(pid) for pid, started in known]
            if any(stat and stat.session == session and (stat.pid, stat.started) in known for stat in living):
                log.info("leftover_ended", record=record.name, session=session)
                await end_session(session, grace_seconds)
                reaped += 1
        record.unlink()
    return reaped


def _signal(processes: Iterable[ProcessStat], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
