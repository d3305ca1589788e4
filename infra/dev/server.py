"""What PostgreSQL and Valkey have in common: start, adopt, stop and kill a server that lives in a folder."""

import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from infra.dev.processes import (
    Runner,
    ServicesError,
    choose_runner,
    free_port,
    is_alive,
    port_is_free,
    processes_in,
    wait_until,
)

START_SECONDS = 60.0
"""The longest a start may take: a crash recovery reads the log written since the last checkpoint."""
STOP_SECONDS = 20.0
_ADOPT_SECONDS = 10.0
_PORT_SECONDS = 1.0
_LOG_BYTES = 10 * 1024 * 1024


class Server(ABC):
    """One server on 127.0.0.1 with its data and its remembered port in a folder of its own."""

    name: str
    process_names: frozenset[str]
    stop_signal: signal.Signals

    def __init__(self, *, home: Path, binary: Path) -> None:
        self.folder = home / self.name
        self.binary = binary
        self._log = home / "logs" / f"{self.name}.log"
        self._port_file = self.folder / "port"
        self._wanted = self.folder / "wanted"
        """There from a start until a stop: a server that ended in between is to be started again."""

    @property
    @abstractmethod
    def work_folder(self) -> Path:
        """The folder that the running server has as its current one."""

    @abstractmethod
    def command(self, port: int) -> tuple[list[str], bytes]:
        """The command that serves on ``port``, and what it reads from its standard input."""

    @abstractmethod
    def answers(self, port: int) -> bool:
        """Whether it accepts our password and is ready; raises ServicesError when it refuses the password."""

    @abstractmethod
    def prepare(self, runner: Runner) -> None:
        """Make whatever must exist before the start; no process of this server runs."""

    @property
    def port(self) -> int:
        """The port that was served on last."""
        return int(self._port_file.read_text())

    def was_started(self) -> bool:
        """Whether this home has ever run this server."""
        return self._port_file.exists()

    def start(self) -> None:
        """Serve: adopt what an earlier, killed launcher has left running, or start anew on the remembered port."""
        self._start(self._candidate_ports())

    def stop(self) -> None:
        """Shut down cleanly; after STOP_SECONDS by force. Does nothing when it does not run."""
        self._wanted.unlink(missing_ok=True)
        self._shut_down()

    def kill(self) -> None:
        """End it as a crash does (SIGKILL), and wait until nothing of it is left."""
        doomed = self._processes()
        for process in doomed[:1]:
            _send(process, signal.SIGKILL)  # the others end by themselves when they notice, as after a real crash
        if _have_ended(doomed, within=5):
            return
        for process in doomed:
            _send(process, signal.SIGKILL)
        if not _have_ended(doomed, within=5):
            raise ServicesError(f"{self.name} in {self.folder} cannot be ended.")

    def restart(self) -> None:
        """Stop it where it runs and serve again on the same port."""
        self.stop()
        self._start_on_its_port()

    def revive(self) -> bool:
        """Serve again on the same port if it has ended without having been stopped; whether it had to be started."""
        if not self._wanted.exists() or self._processes():
            return False
        self._start_on_its_port()
        return True

    def _start_on_its_port(self) -> None:
        port = self.port
        # The last thread of a process lets go of the port, a moment after the process has ended.
        wait_until(lambda: port_is_free(port), timeout=_PORT_SECONDS)
        self._start([port])

    def _start(self, ports: Iterable[int]) -> None:
        if not self._adopt() and not self._start_anew(ports):
            raise ServicesError(f"No free port was found for {self.name}.\n{self._last_lines()}")
        self._wanted.touch()

    def _start_anew(self, ports: Iterable[int]) -> bool:
        self._shut_down()
        runner = choose_runner(self.binary, self.folder)
        self.prepare(runner)
        return any(self._serve(runner, port) for port in ports)

    def _shut_down(self) -> None:
        for process in self._processes()[:1]:
            _send(process, self.stop_signal)
        if not wait_until(lambda: not self._processes(), timeout=STOP_SECONDS):
            self.kill()

    def _processes(self) -> list[psutil.Process]:
        return processes_in(self.work_folder, self.process_names)

    def _adopt(self) -> bool:
        if not self._processes() or not self.was_started():
            return False
        # It may be recovering from a crash, or on its way out.
        answered = False

        def settled() -> bool:
            nonlocal answered
            answered = self.answers(self.port)
            return answered or not self._processes()

        wait_until(settled, timeout=_ADOPT_SECONDS)
        return answered

    def _candidate_ports(self) -> Iterator[int]:
        if self.was_started() and port_is_free(self.port):
            yield self.port
        for _ in range(5):
            yield free_port()

    def _serve(self, runner: Runner, port: int) -> bool:
        self._log.parent.mkdir(mode=0o700, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        argv, stdin = self.command(port)
        child = runner.spawn(argv, log=self._log, stdin=stdin)
        self._port_file.write_text(str(port))
        wait_until(lambda: child.poll() is not None or self.answers(port), timeout=START_SECONDS)
        if child.poll() is None and self.answers(port):
            return True
        ended = child.poll() is not None
        if ended and not port_is_free(port):
            return False  # another process was faster
        _end(child)
        reason = "ended at once" if ended else f"did not answer within {START_SECONDS:.0f} s"
        raise ServicesError(f"{self.name} {reason}:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        if not self._log.exists():
            return ""
        return "\n".join([*self._log.read_text(errors="replace").splitlines()[-15:], f"(all of it: {self._log})"])


def _have_ended(processes: Sequence[psutil.Process], *, within: float) -> bool:
    return wait_until(lambda: not any(is_alive(process) for process in processes), timeout=within)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
