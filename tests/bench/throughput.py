"""Rows and tokens per second through Hone, beside a bare client on the same warm server, ``run_batch`` and the engine.

All four answer the same number of rows of the same shape with the same number of tokens; every run has questions of
its own, so that no run finds the answers of another in the prefix cache.
"""

import asyncio
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from openai import OpenAI

from inference_workers.config import load_config
from inference_workers.engine_command import engine_command, engine_environment
from infra.dev.instance import DEFAULT_NODE_CONFIG, Instance
from infra.dev.programs import ROOT, worker_python
from tests.bench.cpu import cpu_seconds, difference

ENDPOINT: Final = "/v1/chat/completions"
ROWS = int(os.environ.get("HONE_BENCH_ROWS", "256"))
TOKENS = int(os.environ.get("HONE_BENCH_TOKENS", "32"))
ROUNDS = int(os.environ.get("HONE_BENCH_ROUNDS", "2"))

_TOPICS = ["a late parcel", "a broken lamp", "an invoice", "a lost password", "a refund", "opening hours", "a delay"]


@dataclass(frozen=True)
class Run:
    """One measured run."""

    rows: int
    tokens: int
    seconds: float


def measure(instance: Instance, api_key: str) -> dict[str, Any]:
    """Hone and the bare client, in turn on one warm server; returns the figures."""
    config = load_config(DEFAULT_NODE_CONFIG, {"HONE_HOME": str(instance.home)})
    model = config.models[0]
    client = OpenAI(base_url=f"{instance.base_url}/v1", api_key=api_key)
    engine = _Engine.of(instance, model.name)
    hone: list[Run] = []
    bare: list[Run] = []
    _through_hone(client, _rows(model.name, "warm-up", 32))
    used: dict[str, float] = {}

    def run_hone(number: int) -> None:
        before = cpu_seconds(instance)
        hone.append(_through_hone(client, _rows(model.name, f"hone {number}", ROWS)))
        _say("through Hone", hone[-1])
        for part, seconds in difference(before, cpu_seconds(instance)).items():
            used[part] = round(used.get(part, 0) + seconds, 2)

    def run_bare(number: int) -> None:
        bare.append(asyncio.run(_bare(engine, _rows(model.name, f"bare {number}", ROWS), model.max_in_flight)))
        _say("bare asyncio client", bare[-1])

    for number in range(ROUNDS):
        # Each goes first in its turn, so that a machine that slows down or speeds up favours neither.
        for run in (run_hone, run_bare) if number % 2 == 0 else (run_bare, run_hone):
            run(number)
    ratios = [
        (one.tokens / one.seconds) / (other.tokens / other.seconds) for one, other in zip(hone, bare, strict=True)
    ]
    return {
        "rows": ROWS,
        "tokens_per_row": TOKENS,
        "in_flight": model.max_in_flight,
        "hone": _figures(hone) | {"cpu_seconds": used},
        "bare_client": _figures(bare),
        "hone_over_bare_client": {"median": statistics.median(ratios), "runs": ratios},
    }


def measure_offline(home: Path, work: Path) -> dict[str, Any]:
    """``run_batch`` and the engine without a server, when Hone has stopped: two engines would share two cores."""
    config = load_config(DEFAULT_NODE_CONFIG, {"HONE_HOME": str(home)})
    model = config.models[0]
    folder = config.model_folder(model)
    context = json.loads((folder / "hone-model.json").read_text())["context_length"]
    flags = engine_command(model, folder, context_length=context, port=0)[3:]
    for name in ("--host", "--port"):
        place = flags.index(name)
        del flags[place : place + 2]
    flags.remove("--disable-uvicorn-access-log")
    environment = engine_environment(model, api_key="unused")
    source = work / "run_batch.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in _rows(model.name, "run_batch", ROWS)))
    target = work / "run_batch-output.jsonl"
    target.unlink(missing_ok=True)
    run_batch = _timed(
        lambda: subprocess.run(
            [worker_python(), "-m", "vllm.entrypoints.openai.run_batch", "-i", str(source), "-o", str(target), *flags],
            env=environment, check=True, capture_output=True,
        ),
        lambda: sum(json.loads(line)["response"]["body"]["usage"]["completion_tokens"] for line in target.open()),
    )  # fmt: skip
    _say("run_batch, its start included", run_batch)
    script = ROOT / "tests" / "bench" / "offline_engine.py"
    rows = [row["body"] for row in _rows(model.name, "offline", ROWS)]
    answer = subprocess.run(
        [worker_python(), str(script), str(folder), str(context)],
        input=json.dumps(rows), env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    # The engine itself writes to standard output, too, before and after our line.
    figures = next(line for line in answer.stdout.splitlines() if line.startswith('{"rows"'))
    offline = Run(**json.loads(figures))
    _say("offline engine, without its start", offline)
    return {"run_batch_with_start": _figures([run_batch]), "offline_engine": _figures([offline])}


def _rows(model: str, run: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": ENDPOINT,
            "body": {
                "model": model,
                "messages": [
                    {
                        "role": "user",
                        "content": f"Run {run}, ticket {number}: a customer writes about "
                        f"{_TOPICS[number % len(_TOPICS)]} and has waited {number % 29 + 1} days. "
                        "Draft a short and friendly answer.",
                    }
                ],
                "max_tokens": TOKENS,
                "temperature": 0,
                "ignore_eos": True,
            },
        }
        for number in range(count)
    ]


def _through_hone(client: OpenAI, rows: list[dict[str, Any]]) -> Run:
    """From the batch's creation until it is completed: validation, sharding, usage and assembly included."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("bench.jsonl", content), purpose="batch")
    started = time.perf_counter()
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    while batch.status in ("validating", "in_progress", "finalizing"):
        time.sleep(2)  # as a customer would: asking costs the control plane, which shares these cores
        batch = client.batches.retrieve(batch.id)
    seconds = time.perf_counter() - started
    if batch.status != "completed" or not batch.usage or not batch.request_counts or batch.request_counts.failed:
        raise RuntimeError(f"the batch did not complete: {batch}")
    return Run(batch.request_counts.completed, batch.usage.output_tokens, seconds)


@dataclass(frozen=True)
class _Engine:
    """How to reach the agent's own engine: it listens on a port and with a key of its own choosing."""

    url: str
    key: str

    @classmethod
    def of(cls, instance: Instance, model: str) -> "_Engine":
        process = instance.engine(model)
        command = process.cmdline()
        port = command[command.index("--port") + 1]
        return cls(f"http://127.0.0.1:{port}", process.environ()["VLLM_API_KEY"])


async def _bare(engine: _Engine, rows: list[dict[str, Any]], in_flight: int) -> Run:
    """What a careful script does: so many requests in flight, nothing stored."""
    gate = asyncio.Semaphore(in_flight)
    tokens = 0

    async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        nonlocal tokens
        async with gate, session.post(ENDPOINT, json=body) as response:
            answer = await response.json()
            tokens += answer["usage"]["completion_tokens"]

    started = time.perf_counter()
    async with aiohttp.ClientSession(
        engine.url,
        headers={"Authorization": f"Bearer {engine.key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        await asyncio.gather(*(ask(session, row["body"]) for row in rows))
    return Run(len(rows), tokens, time.perf_counter() - started)


def _timed(work: Callable[[], object], count: Callable[[], int]) -> Run:
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return Run(ROWS, count(), seconds)


def _figures(runs: list[Run]) -> dict[str, Any]:
    return {
        "rows_per_second": statistics.median(run.rows / run.seconds for run in runs),
        "tokens_per_second": statistics.median(run.tokens / run.seconds for run in runs),
        "runs": [{"rows": run.rows, "tokens": run.tokens, "seconds": round(run.seconds, 3)} for run in runs],
    }


def _say(name: str, run: Run) -> None:
    rates = f"{run.rows / run.seconds:6.2f} rows/s  {run.tokens / run.seconds:7.1f} tokens/s"
    print(f"  {name:36} {run.seconds:7.1f} s  {rates}", flush=True)
