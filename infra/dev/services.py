"""PostgreSQL and Valkey for development and tests: real servers below a home folder, ready in about a second.

    with services.start(Path(".hone")) as running:
        os.environ |= running.environment()

The home holds ``secrets.json`` (generated once), ``services.env`` (how to connect, for other terminals), the servers'
data and their logs. Where ``DATABASE_URL`` or ``REDIS_URL`` is set already, that server is used and none is started.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from infra.dev.postgres import ROLES, SUPERUSER, Postgres
from infra.dev.private_files import write_private
from infra.dev.processes import ServicesError
from infra.dev.valkey import Valkey

DATABASE_ROLES = {
    "DATABASE_URL": "hone_app",
    "DATABASE_SYSTEM_URL": "hone_system",
    "DATABASE_OWNER_URL": "hone_owner",
}
"""Which role each of Django's three connections uses."""
KEYS = ("SECRET_KEY", "KEY_PEPPER")
ENVIRONMENT_FILE = "services.env"


class HomeInUseError(ServicesError):
    """Another process runs the services of this home."""


def default_home() -> Path:
    """``HONE_HOME``, or ``.hone`` in the checkout."""
    return Path(os.environ.get("HONE_HOME") or Path(__file__).parents[2] / ".hone").resolve()


def claim(home: Path) -> IO[str]:
    """Make the home and take it for this process, until the returned file is closed or the process ends.

    Raises HomeInUseError while another process has it.
    """
    with _explained(home):
        home.mkdir(mode=0o711, parents=True, exist_ok=True)  # below it every folder and secret is private
        file = (home / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise HomeInUseError(
            f"{home} is in use by process {owner}. Stop that one, or choose another folder: HONE_HOME."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def start(
    home: Path,
    *,
    durable: bool = True,
    database: str = "hone",
    with_postgres: bool = True,
    with_valkey: bool = True,
    lock: IO[str] | None = None,
) -> "Services":
    """Start what is not given from outside, make database and roles, and write ``services.env``.

    What a killed launcher has left running is adopted. ``durable=False`` is for tests: nothing waits for the disk.
    ``lock`` is what :func:`claim` has returned, where the caller needed the home before; it is closed by ``stop``.
    Raises HomeInUseError while another process has this home, ServicesError with a message for a person when the
    start fails.
    """
    home = home.resolve()
    lock = lock or claim(home)
    try:
        with _explained(home):
            return _start(
                home, lock, durable=durable, database=database, with_postgres=with_postgres, with_valkey=with_valkey
            )
    except BaseException:
        lock.close()
        raise


def attach(home: Path) -> "Services":
    """The services that another process has started in this home, for tests that kill or wipe them."""
    home = home.resolve()
    with _explained(home):
        known = _read_secrets(home)
        lines = (home / ENVIRONMENT_FILE).read_text().splitlines()
        postgres = Postgres(home=home, passwords=known, durable=True)
        valkey = Valkey(home=home, password=known["valkey"], durable=True)
        return Services(
            home,
            postgres if postgres.was_started() else None,
            valkey if valkey.was_started() else None,
            dict(line.split("=", 1) for line in lines),
        )


class Services:
    """Running services; a context manager that stops them."""

    def __init__(
        self, home: Path, postgres: Postgres | None, valkey: Valkey | None, environment: dict[str, str],
        lock: IO[str] | None = None,
    ) -> None:  # fmt: skip
        self.home = home
        self._postgres = postgres
        self._valkey = valkey
        self._environment = environment
        self._lock = lock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """What Django needs: three database URLs, ``REDIS_URL``, ``SECRET_KEY`` and ``KEY_PEPPER`` (64 hex digits)."""
        return dict(self._environment)

    def stop(self) -> None:
        """Stop cleanly what was started or adopted, and let go of the home. May be called twice."""
        with ExitStack() as stack:  # each of them, whatever happens to the others
            if self._lock is not None:
                stack.enter_context(self._lock)
            for server in (self._postgres, self._valkey):
                if server is not None:
                    stack.callback(server.stop)

    def revive(self) -> list[str]:
        """Start again, on their ports, the servers that have ended without having been stopped; their names."""
        return [server.name for server in (self._postgres, self._valkey) if server is not None and server.revive()]

    def create_database(self, name: str) -> dict[str, str]:
        """Make an empty database, dropping one of that name, with the same roles; returns its three URLs."""
        postgres = self._need_postgres()
        postgres.recreate_database(name)
        return _database_urls(postgres, name)

    def restart_postgres(self) -> None:
        """Start PostgreSQL again on its port, after a clean stop where it still runs."""
        self._need_postgres().restart()

    def kill_postgres(self) -> None:
        """End PostgreSQL as a crash does."""
        self._need_postgres().kill()

    def stop_valkey(self) -> None:
        """Stop Valkey until :meth:`restart_valkey`."""
        self._need_valkey().stop()

    def restart_valkey(self) -> None:
        """Start Valkey again on its port, after a clean stop where it still runs."""
        self._need_valkey().restart()

    def kill_valkey(self) -> None:
        """End Valkey as a crash does."""
        self._need_valkey().kill()

    def wipe_valkey(self) -> None:
        """Lose every key: queues, rate limits, caches."""
        self._need_valkey().wipe()

    def _need_postgres(self) -> Postgres:
        if self._postgres is None:
            raise ServicesError("This PostgreSQL was not started here.")
        return self._postgres

    def _need_valkey(self) -> Valkey:
        if self._valkey is None:
            raise ServicesError("This Valkey was not started here.")
        return self._valkey


def _start(
    home: Path, lock: IO[str], *, durable: bool, database: str, with_postgres: bool, with_valkey: bool
) -> "Services":
    known = _read_secrets(home)
    environment = {key: os.environ.get(key) or known[key] for key in KEYS}
    postgres = valkey = None
    if os.environ.get("DATABASE_URL"):
        environment |= _given_databases()
    elif with_postgres:
        postgres = Postgres(home=home, passwords=known, durable=durable)
    if os.environ.get("REDIS_URL"):
        environment["REDIS_URL"] = os.environ["REDIS_URL"]
    elif with_valkey:
        valkey = Valkey(home=home, password=known["valkey"], durable=durable)

    running = Services(home, postgres, valkey, environment, lock)
    try:
        if postgres is not None:
            postgres.start()
            postgres.apply_roles(database)
            environment |= _database_urls(postgres, database)
        if valkey is not None:
            valkey.start()
            environment["REDIS_URL"] = valkey.url
        write_private(home / ENVIRONMENT_FILE, "".join(f"{key}={value}\n" for key, value in environment.items()))
    except BaseException:
        running.stop()
        raise
    return running


def _read_secrets(home: Path) -> dict[str, str]:
    path = home / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = {SUPERUSER, *ROLES, "valkey", *KEYS} - known.keys()
    if missing:
        known |= {name: secrets.token_hex(32) for name in missing}
        write_private(path, json.dumps(known, indent=1))
    return known


def _given_databases() -> dict[str, str]:
    missing = [name for name in DATABASE_ROLES if not os.environ.get(name)]
    if missing:
        raise ServicesError(f"DATABASE_URL is set, so {' and '.join(missing)} must be, too (infra/postgres/roles.sql).")
    return {name: os.environ[name] for name in DATABASE_ROLES}


def _database_urls(postgres: Postgres, database: str) -> dict[str, str]:
    return {variable: postgres.url(role, database) for variable, role in DATABASE_ROLES.items()}


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ServicesError(
            f"{error.filename or home} belongs to another user. Run as that user, or choose another folder: HONE_HOME."
        ) from error
