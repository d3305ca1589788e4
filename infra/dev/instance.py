"""A complete Hone for demonstrations and end-to-end tests, as ``make run`` starts it, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil

from infra.dev import services
from infra.dev.processes import ServicesError, free_port, tethered, wait_until
from infra.dev.programs import ROOT, control_environment, manage_command, without_connections
from infra.dev.run import RECORD_FILE, stop

DEFAULT_NODE_CONFIG = ROOT / "infra" / "dev" / "node.toml"
_STOP_SECONDS = 120.0


@contextmanager
def running_instance(
    *,
    home: Path,
    port: int | None = None,
    node_configs: Sequence[Path] = (DEFAULT_NODE_CONFIG,),
    environment: Mapping[str, str] | None = None,
    timeout: float = 900.0,
) -> Iterator["Instance"]:
    """Start everything, wait until every model is ready (``timeout`` seconds at most), and stop it in the end.

    ``port`` is a free one by default. The instance has services of its own: of our environment it gets everything
    but connections and secrets, and then ``environment``. What the processes print goes to ``<home>/logs/run.log``.
    Call it from the main thread: the instance ends when the calling thread does.
    """
    home = home.resolve()
    port = port or free_port()
    log = home / "logs" / "run.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "infra.dev", "run", "--home", str(home), "--port", str(port),
        *(argument for path in node_configs for argument in ("--node-config", str(path))),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            tethered(command, signal.SIGTERM), cwd=ROOT, env=without_connections(os.environ) | dict(environment or {}),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    instance = Instance(home=home, port=port)
    try:
        settled = wait_until(lambda: process.poll() is not None or instance.is_ready(), timeout=timeout, interval=0.1)
        if not settled or process.poll() is not None:
            outcome = f"ended with status {process.poll()}" if settled else f"was not ready within {timeout:g} s"
            lines = log.read_text(errors="replace").splitlines()[-30:]
            raise ServicesError("\n".join([f"The instance in {home} {outcome}:", *lines, f"(all of it: {log})"]))
        yield instance
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode != 0:  # it was killed, or could not start: its services may have stayed
            with suppress(services.HomeInUseError):
                stop(home)


def empty_home(name: str) -> Path:
    """A fresh home below the default one, for an instance that starts empty but need not prepare the models again."""
    home = services.default_home() / name
    if home.exists():
        stop(home)  # what an interrupted run has left; work of its own would be in the way
        shutil.rmtree(home)
    home.mkdir(parents=True)
    models = services.default_home() / "models"
    models.mkdir(exist_ok=True)
    (home / "models").symlink_to(models)
    return home


class Instance:
    """A running Hone."""

    def __init__(self, *, home: Path, port: int) -> None:
        self.home = home
        self.base_url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        """Whether web answers and every model is loaded."""
        return bool(self._record().get("ready"))

    def pid(self, name: str) -> int:
        """The present process of ``web``, ``control``, ``beat`` or an agent; KeyError while there is none."""
        pid: int = self._record()["processes"][name]["pid"]
        return pid

    def engine(self, model: str) -> psutil.Process:
        """The server of a model that a node of this instance runs now; LookupError while there is none."""
        for process in psutil.Process(self.pid("agent")).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                command = process.cmdline()
                if "--served-model-name" in command and model in command:
                    return process
        raise LookupError(f"no engine of {model} runs")

    def manage(self, *arguments: str) -> str:
        """Run ``manage.py`` in this instance; its standard output. Raises ServicesError with what it has said."""
        result = subprocess.run(
            manage_command(*arguments), cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if result.returncode != 0:
            raise ServicesError(f"manage.py {arguments[0]} failed:\n{result.stdout}{result.stderr}")
        return result.stdout

    @cached_property
    def services(self) -> services.Services:
        """PostgreSQL and Valkey of this instance, to kill, wipe and restart them."""
        return services.attach(self.home)

    @cached_property
    def environment(self) -> dict[str, str]:
        """What ``manage.py`` and other clients need to work with this instance."""
        return control_environment(self.home, self.services.environment(), inherited=without_connections(os.environ))

    def _record(self) -> dict[str, dict[str, dict[str, int]]]:
        try:
            record: dict[str, dict[str, dict[str, int]]] = json.loads((self.home / RECORD_FILE).read_text())
        except FileNotFoundError:
            return {}
        return record
