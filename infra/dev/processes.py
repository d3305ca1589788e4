"""Server processes of this machine: whom they run as, which of them are ours, how one waits for them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

NOBODY = 65534
"""The unprivileged user and group that servers run as when root starts them."""
_EXEC_CHILD = Path(__file__).with_name("exec_child.py")

_children: list[subprocess.Popen[bytes]] = []  # kept until they end, whoever ends them, so that none stays a zombie


class ServicesError(Exception):
    """The services cannot be started or used as asked; the message says what to do."""


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Runner:
    """How a server is run: as ourselves or, when we are root, as an unprivileged user."""

    uid: int | None = None
    gid: int | None = None
    wrapper: tuple[str, ...] = ()

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a short command to its end."""
        return subprocess.run(
            [*self.wrapper, *argv], **self._identity(), env=_environment(), cwd="/", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def spawn(self, argv: Sequence[str], *, log: Path, stdin: bytes = b"") -> subprocess.Popen[bytes]:
        """Start a server that outlives us, in a session of its own, its output appended to ``log``."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*self.wrapper, *argv], **self._identity(), env=_environment(), cwd="/", stdin=subprocess.PIPE,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _children.append(child)
        if child.stdin is not None:
            with suppress(BrokenPipeError), child.stdin as pipe:  # it may have ended at once; its log says why
                pipe.write(stdin)
        return child

    def own(self, path: Path) -> None:
        """Give a file or folder to the user the server runs as."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def _identity(self) -> _Identity:
        if self.uid is None or self.gid is None or self.wrapper:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def choose_runner(binary: Path, folder: Path) -> Runner:
    """Make ``folder`` and say how ``binary`` can be run with its data in it.

    PostgreSQL refuses to run as root. As root, the server runs as the folder's owner (NOBODY for a new one); where
    the checkout or the home lies below a folder that this user may not enter (root's own, pytest's temporary ones) it
    keeps one capability, to read past directory permissions, rather than having its files copied elsewhere.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Runner()
    owner = folder.stat()
    uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid else (NOBODY, NOBODY)
    os.chown(folder, uid, gid)
    for wrapper in ((), _setpriv(uid, gid, "dac_read_search"), _setpriv(uid, gid, "dac_override")):
        runner = Runner(uid, gid, wrapper)
        try:
            probe = runner.run(["/bin/sh", "-c", '"$0" --version && cd "$1"', str(binary), str(folder)])
        except FileNotFoundError:  # no setpriv
            continue
        if probe.returncode == 0:
            return runner
    raise ServicesError(
        f"As root, {binary.name} must run as an unprivileged user, but uid {uid} can reach {binary} or {folder} by no "
        "means. Move the checkout to a folder that everybody may enter, or do not run as root."
    )


def tethered(argv: Sequence[str], number: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command that runs ``argv`` and sends it this signal when our process (strictly, its thread) is no more."""
    return [sys.executable, "-I", "-S", str(_EXEC_CHILD), str(int(number)), str(os.getpid()), *argv]


def stop_signals() -> list[signal.Signals]:
    """What asks a foreground program to stop; a hang-up does not where it was started with ``nohup``."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


def processes_in(folder: Path, names: Collection[str]) -> list[psutil.Process]:
    """The running processes with one of these names that work in ``folder``, parents before children.

    Servers change into their data folder, so this tells ours from any other process without a pid file, which a
    kill or a reboot leaves behind and whose number another process may get.
    """
    reap()
    here = os.path.realpath(folder)
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] not in names:
            continue
        try:
            if process.cwd() == here:
                found.append(process)
        except psutil.Error:
            continue  # just ended, a zombie, or another user's
    numbers = {process.pid for process in found}
    return sorted(found, key=lambda process: _parent(process) in numbers)


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that only waits for its parent to take note of its end does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reap() -> None:
    """Forget those of our children that have ended."""
    _children[:] = [child for child in _children if child.poll() is None]


def wait_until(condition: Callable[[], bool], *, timeout: float, interval: float = 0.02) -> bool:
    """Poll until ``condition()`` holds; False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _environment() -> dict[str, str]:
    # Nothing of the caller's: its variables may hold secrets, or settings such as PGDATA.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _setpriv(uid: int, gid: int, capability: str) -> tuple[str, ...]:
    only = f"-all,+{capability}"
    capabilities = (f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}")
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *capabilities, "--no-new-privs")


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0
