"""What one machine runs as Hone: the commands of the preparations and of the processes, and their environments."""

import asyncio
import http.client
import json
import os
import sys
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.dev import services
from infra.dev.processes import ServicesError
from infra.dev.supervisor import Program

ROOT = Path(__file__).parents[2].resolve()


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node agent: the program that runs it, and what its configuration says."""

    program: str
    """``agent`` where there is one, ``agent-<node>`` where there are several."""
    config: Path
    name: str
    models: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One instance of Hone: where it lives, where it listens, how its services are reached, and its nodes."""

    home: Path
    port: int
    node_configs: Sequence[Path]
    services: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """Where web listens."""
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def nodes(self) -> list[Node]:
        """In the order of their configurations; ServicesError when one cannot be read or two have one name."""
        documents = [_read_toml(path) for path in self.node_configs]
        names: list[str] = [document["node"]["name"] for document in documents]
        if len(set(names)) < len(names):
            raise ServicesError(f"Nodes must have different names: {', '.join(names)}.")
        return [
            Node(
                program="agent" if len(names) == 1 else f"agent-{name}",
                config=path,
                name=name,
                models=[model["name"] for model in document["models"]],
            )
            for path, document, name in zip(self.node_configs, documents, names, strict=True)
        ]

    def worker_token(self, node: Node) -> Path:
        """The file with the token of a node agent."""
        return self.home / f"{node.program}.token"

    def control_environment(self) -> dict[str, str]:
        """For every process of the control plane, and for ``manage.py``."""
        return control_environment(self.home, self.services, inherited=os.environ)

    def worker_environment(self, node: Node) -> dict[str, str]:
        """For a node agent: how to reach the control plane, and nothing that a remote machine would not have."""
        inherited = without_connections(os.environ)
        inherited.pop("DJANGO_SETTINGS_MODULE", None)  # Celery would look for Django, which a worker has not
        return inherited | {
            "HONE_HOME": str(self.home),
            "HONE_CONTROL_PLANE_URL": self.base_url,
            "HONE_WORKER_TOKEN_FILE": str(self.worker_token(node)),
            "HONE_BROKER_URL": self.services["REDIS_URL"],
            "PYTHONUNBUFFERED": "1",
        }

    def preparations(self) -> list[tuple[str, list[str], dict[str, str]]]:
        """What comes before the processes, each step safe to repeat: a line for the user, command, environment."""
        control = self.control_environment()
        models = dict.fromkeys(name for node in self.nodes for name in node.models)  # several nodes may serve one
        return [
            ("migrating the database", manage_command("migrate", "--verbosity", "0"), control),
            *(
                (
                    f"preparing the models of {node.name} (a minute or two the first time)",
                    _worker_command("prepare", node),
                    self.worker_environment(node),
                )
                for node in self.nodes
            ),
            *(
                (f"registering {name}", manage_command("register_model", str(self.home / "models" / name)), control)
                for name in models
            ),
            *(
                (f"making sure of the token of {node.name}", manage_command(*self._token_command(node)), control)
                for node in self.nodes
            ),
        ]

    def programs(self) -> list[Program]:
        """The processes to keep running, in the order of their start."""
        control = self.control_environment()
        python = sys.executable
        web = (
            "-m", "gunicorn", "config.wsgi:application", "--bind", f"127.0.0.1:{self.port}", "--worker-class",
            "gthread", "--workers", "1", "--threads", "16", "--timeout", "120", "--graceful-timeout", "10",
            "--keep-alive", "75", "--no-control-socket",
        )  # fmt: skip
        worker = (
            "-m", "celery", "-A", "config", "worker", "--hostname", "control@%h", "--pool", "prefork",
            "--concurrency", "2", "--prefetch-multiplier", "1", "--without-gossip", "--without-mingle",
            "--loglevel", "INFO",
        )  # fmt: skip
        beat = (
            "-m", "celery", "-A", "config", "beat", "--schedule", str(self.home / "beat-schedule"),
            "--loglevel", "WARNING",
        )  # fmt: skip
        return [
            Program(name="web", argv=(python, *web), env=control, cwd=ROOT, missing=self._missing_of_web),
            Program(name="control", argv=(python, *worker), env=control, cwd=ROOT),
            Program(name="beat", argv=(python, *beat), env=control, cwd=ROOT),
            *(
                Program(
                    name=node.program, argv=_worker_command("agent", node), env=self.worker_environment(node),
                    cwd=ROOT, missing=self._missing_of_agent(node), grace_seconds=30,
                )
                for node in self.nodes
            ),
        ]  # fmt: skip

    def _token_command(self, node: Node) -> list[str]:
        return ["create_worker_token", "--name", node.name, "--output", str(self.worker_token(node))]

    async def _missing_of_web(self) -> str | None:
        status, _ = await asyncio.to_thread(_get, self.port, "/readyz", {})
        return None if status == 200 else f"GET /readyz {_outcome(status)}"

    def _missing_of_agent(self, node: Node) -> Callable[[], Awaitable[str | None]]:
        path = f"/internal/v1/nodes/{node.name}"

        async def missing() -> str | None:
            headers = {"Authorization": f"Bearer {self.worker_token(node).read_text().strip()}"}
            status, report = await asyncio.to_thread(_get, self.port, path, headers)
            if status != 200:
                return f"GET {path} {_outcome(status)}"
            states = {model["name"]: model["state"] for model in report["models"]}
            waiting = [name for name in node.models if states.get(name) != "ready"]
            return ", ".join(f"{name} is {states.get(name, 'not reported yet')}" for name in waiting) or None

        return missing


def control_environment(home: Path, connections: Mapping[str, str], *, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of Django in the instance of this home; ``connections`` as in its ``services.env``."""
    return {
        **inherited,
        **connections,
        "HONE_HOME": str(home),
        "DJANGO_SETTINGS_MODULE": "config.settings.development",
        "PYTHONUNBUFFERED": "1",
    }


def without_connections(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what leads to a control plane's data: given directly or as the name of a file."""
    secret = {*services.DATABASE_ROLES, *services.KEYS, "REDIS_URL", "STORAGE_ROOT", "EMAIL_URL"}
    return {name: value for name, value in environment.items() if name.removesuffix("_FILE") not in secret}


def manage_command(*arguments: str) -> list[str]:
    """``manage.py`` with these arguments, run by the Python that runs this."""
    return [sys.executable, str(ROOT / "manage.py"), *arguments]


def worker_python() -> str:
    """The Python of the worker's own environment (``HONE_WORKER_PYTHON`` when it is elsewhere)."""
    python = os.environ.get("HONE_WORKER_PYTHON") or str(ROOT / ".venv-worker" / "bin" / "python")
    if not Path(python).exists():
        raise ServicesError(f"The worker's environment is missing ({python}): `make run` installs it.")
    return python


def _worker_command(command: str, node: Node) -> list[str]:
    return [worker_python(), "-m", "inference_workers", command, "--config", str(node.config)]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ServicesError(f"The node's configuration {path} cannot be read: {error}") from error


def _get(port: int, path: str, headers: dict[str, str]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.status == 200 and body.startswith(b"{") else None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def _outcome(status: int) -> str:
    return f"answers {status}" if status else "does not answer yet"
