"""Run the benchmarks: a table on screen, JSON below ``<HONE_HOME>/bench``."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.dev.instance import empty_home, running_instance
from infra.dev.services import default_home
from tests.bench import authentication, claims, reports, rows, throughput, training, usage, validation


def main() -> int:
    """All of them, one after the other."""
    folder = default_home() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    print("Batch validation", flush=True)
    results["validation"] = validation.measure()
    print("\nReport on training data", flush=True)
    results["reports"] = reports.measure(rows=100_000)
    print("\nClaims from a growing queue", flush=True)
    results["claims"] = claims.measure()
    print("\nAuthentication", flush=True)
    results["authentication"] = authentication.measure()
    print("\nUsage by the million", flush=True)
    results["usage"] = usage.measure()
    print("\nRows of growing batches (stand-in engine)", flush=True)
    results["rows"] = rows.measure()
    print("\nBatch throughput (real vLLM)", flush=True)
    with running_instance(home=empty_home("bench-instance")) as instance:
        arguments = ("--name", "Bench", "--owner-email", "bench@example.com", "--credit-usd", "1000")
        made = json.loads(instance.manage("create_organization", *arguments).splitlines()[-1])
        results["throughput"] = throughput.measure(instance, made["api_key"])
    results["throughput"] |= throughput.measure_offline(default_home(), folder)
    ratio = results["throughput"]["hone_over_bare_client"]
    runs = ", ".join(f"{run:.3f}" for run in ratio["runs"])
    print(f"\n  Hone over the bare client: {ratio['median']:.3f} (runs: {runs})")
    print("\nTraining (the trainer and TRL's plain recipe)", flush=True)
    results["training"] = training.measure()
    path = _write(folder, results)
    print(f"  {path}")
    return 0


def _write(folder: Path, results: dict[str, Any]) -> Path:
    path = folder / f"{results['at'].replace(':', '')}.json"
    path.write_text(json.dumps(results, indent=2))
    return path


if __name__ == "__main__":
    sys.exit(main())
