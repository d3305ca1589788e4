"""The launcher of PostgreSQL and Valkey, with the real servers."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from infra.dev import services
from infra.dev.processes import NOBODY, ServicesError, choose_runner, port_is_free, wait_until
from infra.dev.programs import ROOT
from tests.infra.conftest import servers_of

ORDINARY = NOBODY if os.geteuid() == 0 else None
NO_GROUPS: list[str | int] | None = None if ORDINARY is None else []
START_AND_WAIT = (
    "import signal, sys; from pathlib import Path; from infra.dev import services;"
    "services.start(Path(sys.argv[1]), durable=False); print('started', flush=True); signal.pause()"
)


def test_a_new_home_serves_and_stops_without_a_trace(tmp_path: Path) -> None:
    home = tmp_path / "new"

    with services.start(home) as running:
        assert query(running.environment()["DATABASE_URL"], "SELECT current_user, current_database()") == (
            "hone_app",
            "hone",
        )
        assert query(running.environment()["DATABASE_SYSTEM_URL"], "SELECT current_user") == ("hone_system",)
        assert query(running.environment()["DATABASE_OWNER_URL"], "SELECT current_user") == ("hone_owner",)
        assert client(running).ping()
        assert servers_of(home) != []

    assert servers_of(home) == []


def test_other_terminals_find_the_connections_in_a_private_file(home: Path) -> None:
    with services.start(home, durable=False) as running:
        file = home / "services.env"

        assert dict(line.split("=", 1) for line in file.read_text().splitlines()) == running.environment()
        assert set(running.environment()) == {
            "DATABASE_URL", "DATABASE_SYSTEM_URL", "DATABASE_OWNER_URL", "REDIS_URL", "SECRET_KEY", "KEY_PEPPER",
        }  # fmt: skip
        assert len(bytes.fromhex(running.environment()["KEY_PEPPER"])) == 32
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600


def test_connections_and_data_are_the_same_after_a_restart(home: Path) -> None:
    with services.start(home, durable=False) as running:
        before = running.environment()
        write(running, "kept")

    with services.start(home, durable=False) as running:
        assert running.environment() == before
        assert read(running) == ("kept", "kept")


def test_data_survives_a_kill_of_both_servers(home: Path) -> None:
    with services.start(home, durable=False) as running:
        before = running.environment()
        write(running, "survivor")

        running.kill_postgres()
        running.kill_valkey()
        assert servers_of(home) == []
        running.restart_postgres()
        running.restart_valkey()

        assert read(running) == ("survivor", "survivor")
        assert running.environment() == before


def test_a_wiped_valkey_has_no_key(home: Path) -> None:
    with services.start(home, durable=False, with_postgres=False) as running:
        client(running).set("key", "value")

        running.wipe_valkey()

        assert client(running).dbsize() == 0


def test_servers_that_have_died_are_revived_on_their_ports(home: Path) -> None:
    with services.start(home, durable=False) as running:
        before = running.environment()
        write(running, "revived")
        assert running.revive() == []

        running.kill_postgres()
        running.kill_valkey()
        assert running.revive() == ["postgres", "valkey"]

        assert read(running) == ("revived", "revived")
        assert running.environment() == before
        assert running.revive() == []


def test_a_server_that_was_stopped_is_not_revived(home: Path) -> None:
    with services.start(home, durable=False, with_postgres=False) as running:
        services.attach(home).stop_valkey()

        assert running.revive() == []
        assert servers_of(home) == []

        services.attach(home).restart_valkey()
        running.kill_valkey()
        assert running.revive() == ["valkey"]


def test_a_server_is_revived_only_once_its_port_is_free(home: Path) -> None:
    with services.start(home, durable=False, with_postgres=False) as running:
        running.kill_valkey()
        port = int((home / "valkey" / "port").read_text())
        assert wait_until(lambda: port_is_free(port), timeout=5)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(ServicesError, match="No free port was found for valkey"):
                running.revive()

        assert running.revive() == ["valkey"]
        assert client(running).ping()


def test_another_process_can_attach_to_kill_and_restart(home: Path) -> None:
    with services.start(home, durable=False) as running:
        write(running, "attached")
        other = services.attach(home)

        other.kill_postgres()
        other.restart_postgres()

        assert other.environment() == running.environment()
        assert read(running) == ("attached", "attached")
    assert servers_of(home) == []


def test_what_a_killed_launcher_has_left_is_adopted(home: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "started\n"
    left = servers_of(home)
    launcher.kill()
    launcher.communicate()

    with services.start(home, durable=False) as running:
        assert postmaster(home).pid in {process.pid for process in left}
        write(running, "adopted")
        assert read(running) == ("adopted", "adopted")

    assert servers_of(home) == []


def test_a_pid_file_whose_number_now_belongs_to_another_process_does_not_matter(home: Path) -> None:
    with services.start(home, durable=False) as running:
        write(running, "before")
        running.kill_postgres()
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    unrelated = subprocess.Popen(["sleep", "600"], user=ORDINARY, group=ORDINARY, extra_groups=NO_GROUPS)
    _, *rest = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(unrelated.pid), *rest, ""]))

    try:
        with services.start(home, durable=False) as running:
            assert read(running) == ("before", "before")
            assert unrelated.poll() is None
    finally:
        unrelated.kill()
        unrelated.wait()


def test_taken_ports_are_replaced_and_the_new_ones_remembered(home: Path) -> None:
    with services.start(home, durable=False) as running:
        before = running.environment()
    with socket.socket() as first, socket.socket() as second:
        for listener, name in ((first, "postgres"), (second, "valkey")):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", int((home / name / "port").read_text())))
            listener.listen()

        with services.start(home, durable=False) as running:
            moved = running.environment()
            assert moved["DATABASE_URL"] != before["DATABASE_URL"]
            assert moved["REDIS_URL"] != before["REDIS_URL"]
            assert read(running)

    with services.start(home, durable=False) as running:
        assert running.environment() == moved


def test_a_second_launcher_of_the_same_home_is_refused(home: Path) -> None:
    with services.start(home, durable=False) as running:
        with pytest.raises(services.HomeInUseError, match=f"in use by process {os.getpid()}"):
            services.start(home, durable=False)
        assert client(running).ping()


def test_a_failed_start_lets_go_of_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://somewhere/else")
        with pytest.raises(ServicesError):
            services.start(home, durable=False)

    services.start(home, durable=False).stop()


def test_a_lost_password_is_explained(tmp_path: Path) -> None:
    services.start(tmp_path, durable=False, with_valkey=False).stop()
    (tmp_path / "secrets.json").unlink()

    with pytest.raises(ServicesError, match="does not accept the password"):
        services.start(tmp_path, durable=False, with_valkey=False)
    assert servers_of(tmp_path) == []


def test_servers_given_from_outside_are_used_and_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "DATABASE_URL": "postgresql://app@db/hone",
        "DATABASE_SYSTEM_URL": "postgresql://system@db/hone",
        "DATABASE_OWNER_URL": "postgresql://owner@db/hone",
        "REDIS_URL": "redis://broker/0",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    with services.start(tmp_path) as running:
        assert running.environment().items() >= given.items()
        with pytest.raises(ServicesError, match="not started here"):
            running.kill_postgres()
    assert not (tmp_path / "postgres").exists()
    assert not (tmp_path / "valkey").exists()


def test_a_database_given_without_its_other_roles_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://app@db/hone")

    with pytest.raises(ServicesError, match="DATABASE_SYSTEM_URL and DATABASE_OWNER_URL"):
        services.start(tmp_path)


def test_a_database_for_tests_is_empty_each_time(home: Path) -> None:
    with services.start(home, durable=False, with_valkey=False) as running:
        first = running.create_database("test_hone")
        query(first["DATABASE_OWNER_URL"], "CREATE TABLE leftover (); SELECT 1")
        with psycopg.connect(first["DATABASE_URL"]):  # somebody still connected does not matter
            second = running.create_database("test_hone")

        assert second == first
        assert query(second["DATABASE_URL"], "SELECT to_regclass('leftover')") == (None,)


def test_passwords_are_in_no_command_line_and_no_log(home: Path) -> None:
    with services.start(home, durable=False) as running:
        write(running, "x")
        secrets = [value for value in running.environment().values() if "://" not in value]
        secrets += [url.split("@")[0].rsplit(":", 1)[1] for url in running.environment().values() if "://" in url]
        seen = [" ".join(process.cmdline()) for process in servers_of(home)]
    seen += [log.read_text() for log in (home / "logs").iterdir()]

    assert len(secrets) == 6
    assert [secret for secret in secrets for text in seen if secret in text] == []


def test_an_ordinary_user_can_run_it(open_folder: Path) -> None:
    """Root starts the launcher as an unprivileged user here; whoever is one already, as himself."""
    script = (
        "with services.start(home) as running, psycopg.connect(running.environment()['DATABASE_URL']) as connection:\n"
        "    print(os.geteuid() != 0, connection.execute('SELECT current_user').fetchone())\n"
    )

    result = choose_runner(Path(sys.executable), open_folder).run(launcher(script, open_folder))

    assert (result.stdout, result.stderr) == ("True ('hone_app',)\n", "")
    assert (open_folder / "postgres").stat().st_uid == open_folder.stat().st_uid
    assert servers_of(open_folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the folder of another user")
def test_a_home_of_another_user_is_explained(open_folder: Path) -> None:
    runner = choose_runner(Path(sys.executable), open_folder)
    os.chown(open_folder, 0, 0)
    script = "try: services.start(home)\nexcept services.ServicesError as error: print(error)\n"

    result = runner.run(launcher(script, open_folder))

    assert (result.stdout, result.stderr) == (
        f"{open_folder / 'lock'} belongs to another user. Run as that user, or choose another folder: HONE_HOME.\n",
        "",
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below which another user can work; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory(prefix="hone-") as folder:
        yield Path(folder)


def launcher(script: str, home: Path) -> list[str]:
    imports = (
        "import os, sys, psycopg; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1]); home = Path(sys.argv[2]); from infra.dev import services\n"
    )
    return [sys.executable, "-c", imports + script, str(ROOT), str(home)]


def query(url: str, statement: str) -> tuple[object, ...] | None:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        return cursor.fetchone()


def write(running: services.Services, value: str) -> None:
    query(
        running.environment()["DATABASE_OWNER_URL"],
        f"DROP TABLE IF EXISTS note; CREATE TABLE note AS SELECT '{value}' AS text; SELECT 1",
    )
    client(running).set("note", value)


def read(running: services.Services) -> tuple[object, ...]:
    row = query(running.environment()["DATABASE_URL"], "SELECT text FROM note")
    assert row is not None
    return (*row, client(running).get("note"))


def client(running: services.Services) -> redis.Redis:
    return redis.Redis.from_url(running.environment()["REDIS_URL"], decode_responses=True)


def postmaster(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0]))
