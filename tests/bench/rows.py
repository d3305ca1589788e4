"""What a row costs while batches grow: ``python -m tests.bench.rows``, with a stand-in for the engine.

A whole instance is started; only the engine is replaced, by one that answers at once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

from infra.dev.instance import Instance, running_instance
from tests.bench.cpu import cpu_seconds, difference

ROOT = Path(__file__).resolve().parents[2]
ROWS = (1_000, 10_000, 100_000)
STAND_IN = ROOT / "tests" / "support" / "stand_in_engine.py"
_ENVIRONMENT = {"HONE_WORKER_PYTHON": sys.executable, "HONE_BATCH_INPUT_MAX_ROWS": str(max(ROWS))}


def measure() -> dict[str, Any]:
    """Rows a second and processor milliseconds a row (all of Hone, without the engine); prints a table row each."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.rows"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found: dict[str, Any] = {}
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
            else:
                print(line, end="", flush=True)
    if process.returncode != 0:
        raise RuntimeError(f"tests.bench.rows ended with status {process.returncode}")
    return found


def main() -> None:
    """Run the batches, print a table row each and the figures at the end."""
    os.environ |= {"DJANGO_SETTINGS_MODULE": "config.settings.test", "LOG_LEVEL": "WARNING"}
    sys.path[:0] = [str(ROOT / "platform")]
    import django

    django.setup()  # the tests' support knows models
    from tests.support.cast import MODEL
    from tests.support.customers import make_customer
    from tests.support.model import make_source

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = make_source(work / "source")
        config = work / "node.toml"
        config.write_text(
            f'[node]\nname = "bench"\n[[models]]\nname = "{MODEL}"\nsource = "folder:{source}"\ndevice = "cpu"\n'
            f"max_in_flight = 128\ncommand = {json.dumps([sys.executable, str(STAND_IN)])}\n"
        )
        with (
            running_instance(home=work / "home", node_configs=[config], environment=_ENVIRONMENT) as instance,
            make_customer(instance, "Bench", credit_usd=1_000_000).client as client,
        ):
            _run(instance, client, 200)
            for rows in ROWS:
                found = results[str(rows)] = _run(instance, client, rows)
                print(
                    f"| batch | {rows:>7,} rows | {found['rows_per_second']:.0f} rows/s | "
                    f"{found['cpu_ms_per_row']:.2f} ms CPU per row |",
                    flush=True,
                )
    print(json.dumps(results))


def _run(instance: Instance, client: OpenAI, rows: int) -> dict[str, Any]:
    from tests.support.rows import jsonl, line

    content = jsonl([line(number) for number in range(1, rows + 1)])
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    before, started = cpu_seconds(instance), time.perf_counter()
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    seconds, used = time.perf_counter() - started, difference(before, cpu_seconds(instance))
    if batch.status != "completed" or not batch.request_counts or batch.request_counts.completed != rows:
        raise RuntimeError(f"the batch did not complete: {batch}")
    of_hone = sum(value for name, value in used.items() if name != "engine")
    return {
        "rows_per_second": round(rows / seconds, 1),
        "cpu_ms_per_row": round(of_hone / rows * 1_000, 3),
        "cpu_seconds": used,
    }


if __name__ == "__main__":
    main()
