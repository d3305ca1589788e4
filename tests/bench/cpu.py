"""How much processor time the parts of a running instance have used."""

import json

import psutil

from infra.dev.instance import Instance
from infra.dev.run import RECORD_FILE

_SERVERS = {"postgres": "postgres", "valkey-server": "valkey"}


def cpu_seconds(instance: Instance) -> dict[str, float]:
    """Seconds by part since its start: every program with its children, the engines apart, and the two servers."""
    record = json.loads((instance.home / RECORD_FILE).read_text())
    used: dict[str, float] = {}
    for name, entry in record["processes"].items():
        program = psutil.Process(entry["pid"])
        is_agent = name.startswith("agent")
        _add(used, name, program)
        for child in program.children(recursive=True):
            _add(used, "engine" if is_agent else name, child)
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in _SERVERS:
            _add(used, _SERVERS[process.info["name"]], process)
    return used


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What was used in between, rounded to hundredths."""
    return {name: round(seconds - before.get(name, 0), 2) for name, seconds in after.items()}


def _add(used: dict[str, float], name: str, process: psutil.Process) -> None:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return
    used[name] = used.get(name, 0) + times.user + times.system
