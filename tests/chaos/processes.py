"""The processes of the running instance: found, killed, frozen, and waited for."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from infra.dev.instance import Instance
from infra.dev.processes import is_alive
from tests.support.waiting import wait_until

NODES = ("a", "b")
RESTART_SECONDS = 120.0
"""How long a replacement may take: whoever dies often is started again after longer and longer pauses."""

Finder = Callable[[], psutil.Process]
"""Raises LookupError or psutil.NoSuchProcess while there is no such process."""


def program(instance: Instance, name: str) -> psutil.Process:
    """A supervised program."""
    return psutil.Process(instance.pid(name))


def agent(instance: Instance, node: str) -> psutil.Process:
    """The agent of a node."""
    return program(instance, f"agent-{node}")


def engine(instance: Instance, node: str) -> psutil.Process:
    """The engine below the agent of a node."""
    return _child(agent(instance, node), "stand_in_engine.py")


def pool_child(instance: Instance) -> psutil.Process:
    """One of the control worker's children: they do the work."""
    return _child(program(instance, "control"), "worker")


def web_child(instance: Instance) -> psutil.Process:
    """The one that answers requests."""
    return _child(program(instance, "web"), "gunicorn")


def victims(instance: Instance) -> dict[str, list[Finder]]:
    """By kind, how to find each process that may be killed."""
    return {
        "agent": [partial(agent, instance, node) for node in NODES],
        "engine": [partial(engine, instance, node) for node in NODES],
        "control worker": [partial(program, instance, "control")],
        "control worker's child": [partial(pool_child, instance)],
        "beat": [partial(program, instance, "beat")],
        "web": [partial(program, instance, "web")],
        "web's child": [partial(web_child, instance)],
    }


def wait_for(find: Finder) -> psutil.Process:
    """The process, once it is there."""
    wait_until(lambda: _present(find) is not None, seconds=RESTART_SECONDS)
    return find()


def kill(find: Finder) -> None:
    """SIGKILL the process, once it is there, and wait until another one has taken its place."""
    killed = wait_for(find)
    killed.kill()
    wait_until(lambda: _present(find) not in (None, killed), seconds=RESTART_SECONDS)


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process with everything below it."""
    return [process, *process.children(recursive=True)]


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Stop the processes (SIGSTOP); continue them in the end."""
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def answered_by_engines(instance: Instance) -> int:
    """Requests that the present engines have answered since they were started."""
    return sum(_metric(engine(instance, node), "stand_in:requests_finished_total") for node in NODES)


def wait_for_web(instance: Instance) -> None:
    """Until it answers that it is ready."""
    wait_until(partial(_answers, f"{instance.base_url}/readyz"), seconds=RESTART_SECONDS)


def log_of(instance: Instance, name: str) -> list[dict[str, Any]]:
    """What a program has logged so far: one mapping per line, with the text as ``event``."""
    lines = (instance.home / "logs" / "run.log").read_text(errors="replace").splitlines()
    texts = [text for prefix, _, text in (line.partition("| ") for line in lines) if prefix.strip() == name]
    return [json.loads(text) if text.startswith('{"') else {"event": text} for text in texts]


def _child(parent: psutil.Process, word: str) -> psutil.Process:
    for child in parent.children(recursive=True):
        if any(word in part for part in child.cmdline()):
            return child
    raise LookupError(word)


def _metric(server: psutil.Process, name: str) -> int:
    command = server.cmdline()
    with urlopen(f"http://127.0.0.1:{command[command.index('--port') + 1]}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith(name))


def _present(find: Finder) -> psutil.Process | None:
    try:
        process = find()
    except (LookupError, psutil.NoSuchProcess):
        return None
    return process if is_alive(process) else None


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False
