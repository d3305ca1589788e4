"""``python -m infra.dev run``: what is decided before anything starts."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from infra.dev import services
from infra.dev.processes import ServicesError
from infra.dev.programs import ROOT, Stack
from infra.dev.supervisor import MARKER
from tests.infra.conftest import servers_of

CONNECTIONS = {
    "DATABASE_URL": "postgresql://hone_app:a-password@127.0.0.1:1/hone",
    "DATABASE_SYSTEM_URL": "postgresql://hone_system:b-password@127.0.0.1:1/hone",
    "DATABASE_OWNER_URL": "postgresql://hone_owner:c-password@127.0.0.1:1/hone",
    "REDIS_URL": "redis://:d-password@127.0.0.1:2/0",
    "SECRET_KEY": "e-secret",
    "KEY_PEPPER": "f-secret",
}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    config = tmp_path / "node.toml"
    config.write_text('[node]\nname = "edge"\n[[models]]\nname = "tiny"\n[[models]]\nname = "small"\n')
    return Stack(home=tmp_path, port=8123, node_configs=[config], services=CONNECTIONS)


@pytest.fixture(autouse=True)
def worker_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_WORKER_PYTHON", sys.executable)


def test_an_occupied_port_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        result = subprocess.run(
            [sys.executable, "-m", "infra.dev", "run", "--home", str(tmp_path), "--port", str(port)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Port {port} of 127.0.0.1 is in use. Choose another one: PORT.\n"
    assert not (tmp_path / "postgres").exists()


def test_a_missing_worker_environment_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_WORKER_PYTHON", str(tmp_path / "nothing"))

    result = subprocess.run(
        [sys.executable, "-m", "infra.dev", "run", "--home", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 1
    assert "The worker's environment is missing" in result.stderr


def test_services_run_in_the_foreground_until_told_to_stop(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "infra.dev", "services", "--home", str(home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == (
            f"PostgreSQL and Valkey run; {home / 'services.env'} says how to connect.\n"
        )
        assert len(servers_of(home)) > 1

        launcher.terminate()

    assert launcher.returncode == 0
    assert servers_of(home) == []


def test_what_a_killed_run_has_left_can_be_stopped(home: Path) -> None:
    services.start(home, durable=False)._lock.close()  # type: ignore[union-attr]  # as if the launcher were killed
    marked = {**os.environ, MARKER: str(home / "run.json")}
    with subprocess.Popen(["sleep", "600"], env=marked) as child:
        subprocess.run([sys.executable, "-m", "infra.dev", "stop", "--home", str(home)], cwd=ROOT, check=True)

    assert child.returncode == -signal.SIGTERM
    assert servers_of(home) == []


def test_a_healthy_run_is_not_stopped_from_elsewhere(home: Path) -> None:
    with services.start(home, durable=False):
        result = subprocess.run(
            [sys.executable, "-m", "infra.dev", "stop", "--home", str(home)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (result.returncode, result.stdout) == (1, "")
        assert f"{home} is in use by process {os.getpid()}" in result.stderr
        assert servers_of(home) != []


def test_the_agent_gets_nothing_of_the_control_planes_data(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CONNECTIONS.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(f"{name}_FILE", f"/secrets/{name}")
    (agent,) = (program for program in stack.programs() if program.name == "agent")

    assert [name for name in agent.env if name.removesuffix("_FILE") in CONNECTIONS] == []
    assert {value for value in CONNECTIONS.values() if value in agent.env.values()} == {CONNECTIONS["REDIS_URL"]}
    assert agent.env["HONE_BROKER_URL"] == CONNECTIONS["REDIS_URL"]
    assert agent.env["HONE_CONTROL_PLANE_URL"] == "http://127.0.0.1:8123"
    assert agent.env["HONE_WORKER_TOKEN_FILE"] == str(stack.home / "agent.token")


def test_the_control_plane_gets_its_connections(stack: Stack) -> None:
    web, control, beat, agent = stack.programs()

    assert [program.name for program in (web, control, beat, agent)] == ["web", "control", "beat", "agent"]
    for program in (web, control, beat):
        assert program.env.items() >= CONNECTIONS.items()
        assert program.env["HONE_HOME"] == str(stack.home)
        assert program.env["DJANGO_SETTINGS_MODULE"] == "config.settings.development"


def test_every_model_of_the_node_is_registered(stack: Stack) -> None:
    commands = [argv[2:] for _, argv, _ in stack.preparations() if argv[1].endswith("manage.py")]

    assert commands == [
        ["migrate", "--verbosity", "0"],
        ["register_model", str(stack.home / "models" / "tiny")],
        ["register_model", str(stack.home / "models" / "small")],
        ["create_worker_token", "--name", "edge", "--output", str(stack.home / "agent.token")],
    ]


def test_several_nodes_have_programs_and_tokens_of_their_own_and_share_a_model(stack: Stack, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[node]\nname = "core"\n[[models]]\nname = "tiny"\n')
    both = replace(stack, node_configs=[*stack.node_configs, other])

    agents = both.programs()[3:]

    assert [agent.name for agent in agents] == ["agent-edge", "agent-core"]
    assert [agent.argv[-1] for agent in agents] == [str(path) for path in both.node_configs]
    assert [agent.env["HONE_WORKER_TOKEN_FILE"] for agent in agents] == [
        str(tmp_path / "agent-edge.token"),
        str(tmp_path / "agent-core.token"),
    ]
    titles = [title for title, _, _ in both.preparations()]
    assert [title for title in titles if title.startswith("registering")] == ["registering tiny", "registering small"]
    assert titles[-2:] == ["making sure of the token of edge", "making sure of the token of core"]


def test_two_nodes_of_one_name_are_refused(stack: Stack) -> None:
    with pytest.raises(ServicesError, match="different names: edge, edge"):
        replace(stack, node_configs=[*stack.node_configs, *stack.node_configs]).programs()
