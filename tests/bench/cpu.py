"""How much processor time the parts of a running instance have used."""

import json
from urllib.parse import urlsplit

import psutil

from infra.dev.instance import Instance
from infra.dev.run import RECORD_FILE

_SERVERS = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL"}


def cpu_seconds(instance: Instance) -> dict[str, float]:
    """Seconds by part since its start: every program with its children, the engines apart, and the two servers."""
    record = json.loads((instance.home / RECORD_FILE).read_text())
    used: dict[str, float] = {}
    for name, entry in record["processes"].items():
        program = psutil.Process(entry["pid"])
        _add(used, name, program)
        for child in program.children(recursive=True):
            _add(used, "engine" if name.startswith("agent") else name, child)
    listeners = {
        entry.laddr.port: entry.pid
        for entry in psutil.net_connections("tcp")
        if entry.status == psutil.CONN_LISTEN and entry.laddr
    }
    for name, variable in _SERVERS.items():
        server = psutil.Process(listeners[urlsplit(instance.environment[variable]).port or 0])
        for process in (server, *server.children(recursive=True)):
            _add(used, name, process)
    return used


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was used in between, rounded to hundredths."""
    return {name: round(seconds - before.get(name, 0), 2) for name, seconds in after.items()}


def _add(used: dict[str, float], name: str, process: psutil.Process) -> None:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return
    # Of processes that have ended, too: the servers' connections come and go.
    used[name] = used.get(name, 0) + times.user + times.system + times.children_user + times.children_system
