"""The control plane as a real server: gunicorn on a free port, with the services and the database of the tests.

For what Django's test client cannot show: sockets, chunked bodies, clients that go away, the unmodified ``openai`` SDK.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[2]
_EXEC_CHILD = ROOT / "infra" / "dev" / "exec_child.py"
_START_SECONDS = 30
_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "config.settings.test",
    "LOG_LEVEL": "INFO",
    "HONE_KEY_CACHE_SECONDS": "10",
}


@dataclass(frozen=True)
class Server:
    """A running control plane."""

    host: str
    port: int
    pid: int
    log_path: Path

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What the SDK takes."""
        return f"{self.url}/v1"

    def log(self) -> str:
        """Everything it has logged so far."""
        return self.log_path.read_text()


@contextmanager
def start_server(folder: Path, *, workers: int = 1, threads: int = 8, **environment: str) -> Iterator[Server]:
    """Run ``config.wsgi`` until the context ends; ``environment`` adds to this process's, for example limits.

    As in production, a change of a key takes effect within a second.
    """
    log_path = folder / "server.log"
    with socket.socket() as listener, log_path.open("wb") as log:
        # Bound here and handed over, so that nobody else can take the port in between.
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        gunicorn = (
            sys.executable, "-m", "gunicorn", "config.wsgi:application", "--bind", f"fd://{listener.fileno()}",
            "--worker-class", "gthread", "--workers", str(workers), "--threads", str(threads),
            "--graceful-timeout", "5", "--keep-alive", "75", "--no-control-socket",
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _EXEC_CHILD, str(int(signal.SIGTERM)), str(os.getpid()), *gunicorn],
            cwd=ROOT,
            env={**os.environ, **_ENVIRONMENT, **environment},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        server = Server("127.0.0.1", listener.getsockname()[1], process.pid, log_path)
        try:
            _wait_until_ready(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urlopen(f"{server.url}/readyz", timeout=5):
                return
        except (URLError, TimeoutError) as error:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"The server did not start: {error}\n{server.log()}") from error
            time.sleep(0.05)
