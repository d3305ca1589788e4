"""What a claim costs while the queue grows: ``python -m tests.bench.claims``, a process and services of its own."""

import json
import statistics
import time
from typing import Any

from tests.bench.control_plane import control_plane, run_apart

WAITING = (100, 1_000, 10_000, 100_000)
ORGANIZATIONS = 10
CLAIMS = 100


def measure() -> dict[str, Any]:
    """Milliseconds of a claim (median, 95th percentile) by the number of waiting leases; prints a table row each."""
    found: dict[str, Any] = run_apart("tests.bench.claims")
    for waiting, times in found.items():
        median, p95 = times["median_ms"], times["p95_ms"]
        print(f"| claim | {int(waiting):>7,} waiting | median {median:.2f} ms | p95 {p95:.2f} ms |")
    return found


def main() -> None:
    """Fill the queue step by step and claim from it; what was claimed stays claimed."""
    with control_plane():
        from fleet.claims import claim_lease
        from tests.support.cast import MODEL, make_member
        from tests.support.facts import change
        from tests.support.leases import queue_leases

        members = [make_member(f"Member{number}") for number in range(ORGANIZATIONS)]
        results = {}
        present = 0
        for waiting in WAITING:
            for member in members:
                queue_leases(member, (waiting - present) // ORGANIZATIONS)
            present = waiting
            change("ANALYZE fleet_lease")
            times = []
            for _ in range(CLAIMS):
                started = time.perf_counter()
                lease = claim_lease(kinds=["batch_shard"], models=[MODEL], node_id=None)
                times.append((time.perf_counter() - started) * 1_000)
                assert lease is not None
            change("UPDATE fleet_lease SET state = 'waiting', leased_until = NULL WHERE state = 'leased'")
            percentiles = statistics.quantiles(times, n=20)
            results[waiting] = {"median_ms": round(statistics.median(times), 3), "p95_ms": round(percentiles[-1], 3)}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
