"""What one machine runs as Hone: the commands of the preparations and of the processes, and their environments."""

import asyncio
import http.client
import json
import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.dev import services
from infra.dev.processes import ServicesError
from infra.dev.supervisor import Program

ROOT = Path(__file__).parents[2].resolve()


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One instance of Hone: where it lives, where it listens, how its services are reached, and its node."""

    home: Path
    port: int
    node_config: Path
    services: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """Where web listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker_token(self) -> Path:
        """The file with the node agent's token."""
        return self.home / "worker.token"

    def control_environment(self) -> dict[str, str]:
        """For every process of the control plane, and for ``manage.py``."""
        return control_environment(self.home, self.services, inherited=os.environ)

    def worker_environment(self) -> dict[str, str]:
        """For the node agent: how to reach the control plane, and nothing that a remote machine would not have."""
        inherited = without_connections(os.environ)
        inherited.pop("DJANGO_SETTINGS_MODULE", None)  # Celery would look for Django, which a worker has not
        return inherited | {
            "HONE_HOME": str(self.home),
            "HONE_CONTROL_PLANE_URL": self.base_url,
            "HONE_WORKER_TOKEN_FILE": str(self.worker_token),
            "HONE_BROKER_URL": self.services["REDIS_URL"],
            "PYTHONUNBUFFERED": "1",
        }

    def preparations(self) -> list[tuple[str, list[str], dict[str, str]]]:
        """What comes before the processes, each step safe to repeat: a line for the user, command, environment."""
        control = self.control_environment()
        bring = [worker_python(), "-m", "inference_workers", "prepare", "--config", str(self.node_config)]
        token = ["create_worker_token", "--name", self._node_name(), "--output", str(self.worker_token)]
        return [
            ("migrating the database", manage_command("migrate", "--verbosity", "0"), control),
            ("preparing the models (a minute or two the first time)", bring, self.worker_environment()),
            *(
                (f"registering {name}", manage_command("register_model", str(self.home / "models" / name)), control)
                for name in self._model_names()
            ),
            ("making sure of the node's token", manage_command(*token), control),
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
        agent = ("-m", "inference_workers", "agent", "--config", str(self.node_config))
        return [
            Program(name="web", argv=(python, *web), env=control, cwd=ROOT, missing=self._missing_of_web),
            Program(name="control", argv=(python, *worker), env=control, cwd=ROOT),
            Program(name="beat", argv=(python, *beat), env=control, cwd=ROOT),
            Program(
                name="agent", argv=(worker_python(), *agent), env=self.worker_environment(), cwd=ROOT,
                missing=self._missing_of_agent, grace_seconds=30,
            ),
        ]  # fmt: skip

    async def _missing_of_web(self) -> str | None:
        status, _ = await asyncio.to_thread(_get, self.port, "/readyz", {})
        return None if status == 200 else f"GET /readyz {_outcome(status)}"

    async def _missing_of_agent(self) -> str | None:
        path = f"/internal/v1/nodes/{self._node_name()}"
        headers = {"Authorization": f"Bearer {self.worker_token.read_text().strip()}"}
        status, node = await asyncio.to_thread(_get, self.port, path, headers)
        if status != 200:
            return f"GET {path} {_outcome(status)}"
        states = {model["name"]: model["state"] for model in node["models"]}
        waiting = [name for name in self._model_names() if states.get(name) != "ready"]
        return ", ".join(f"{name} is {states.get(name, 'not reported yet')}" for name in waiting) or None

    def _node(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.node_config.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ServicesError(f"The node's configuration {self.node_config} cannot be read: {error}") from error

    def _node_name(self) -> str:
        name: str = self._node()["node"]["name"]
        return name

    def _model_names(self) -> list[str]:
        return [model["name"] for model in self._node()["models"]]


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
    secret = {*services.DATABASE_ROLES, *services.KEYS, "REDIS_URL", "STORAGE_ROOT"}
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
