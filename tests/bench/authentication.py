"""What remembering keys saves: ``python -m tests.bench.authentication``, a process and services of its own."""

import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from tests.bench.control_plane import control_plane, run_apart
from tests.support.server import Server, start_server

CLIENTS = 8
ROUNDS = 5
SECONDS = 4


def measure() -> dict[str, Any]:
    """Requests per second of ``GET /v1/models``, one server process, with and without memory; prints a table row."""
    found: dict[str, Any] = run_apart("tests.bench.authentication")
    print(
        f"| GET /v1/models | keys remembered {found['remembered']:.0f}/s | looked up {found['looked_up']:.0f}/s "
        f"| ratio {found['ratio']:.2f} |"
    )
    return found


def main() -> None:
    """Two servers side by side take turns, so that a slower minute of the machine hits both."""
    with control_plane() as home, ExitStack() as stack:
        from tests.support.cast import make_member

        token = make_member("Bench").token
        found: dict[str, list[float]] = {}
        servers = {}
        for name, seconds in {"remembered": "10", "looked_up": "0"}.items():
            (home / name).mkdir()
            servers[name] = stack.enter_context(
                start_server(home / name, HONE_KEY_CACHE_SECONDS=seconds, LOG_LEVEL="WARNING")
            )
        for _ in range(1 + ROUNDS):
            for name, server in servers.items():
                found.setdefault(name, []).append(_requests_per_second(server, token))
    ratios = [with_it / without for with_it, without in zip(*(runs[1:] for runs in found.values()), strict=True)]
    rates = {name: round(statistics.median(runs[1:]), 1) for name, runs in found.items()}  # without the first round
    print(json.dumps({**rates, "ratio": round(statistics.median(ratios), 3), "ratios": [round(r, 3) for r in ratios]}))


def _requests_per_second(server: Server, token: str) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(lambda _: _requests(server, token, started + SECONDS), range(CLIENTS)))
    return sum(counts) / (time.perf_counter() - started)


def _requests(server: Server, token: str, until: float) -> int:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    count = 0
    while time.perf_counter() < until:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        count += 1
    connection.close()
    return count


if __name__ == "__main__":
    main()
