"""Batches for the end-to-end tests, and waiting for them."""

import json
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import openai
from openai import OpenAI
from openai.types import Batch

T = TypeVar("T")
MODEL = "smollm2-135m-instruct"
ENDPOINT: Final = "/v1/chat/completions"
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


def requests(count: int, *, max_tokens: int = 16, **body: Any) -> bytes:
    """A file of ``count`` chat requests whose answers have exactly ``max_tokens`` tokens."""
    lines = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": ENDPOINT,
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"Say something about the number {number}."}],
                "max_tokens": max_tokens,
                "ignore_eos": True,
                **body,
            },
        }
        for number in range(1, count + 1)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def submit(client: OpenAI, content: bytes, **options: Any) -> Batch:
    """Upload and create."""
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", **options)


def poll(read: Callable[[], T], until: Callable[[T], bool], *, seconds: float = 600) -> T:
    """Read until something is as wished; a control plane that is away for a moment is asked again."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            seen = read()
        except (openai.APIConnectionError, openai.InternalServerError):
            pass
        else:
            if until(seen):
                return seen
        time.sleep(0.2)
    raise AssertionError(f"not in {seconds} s: {seen}")


def wait(client: OpenAI, batch: Batch, until: Callable[[Batch], bool], *, seconds: float = 600) -> Batch:
    """Poll until the batch is as wished."""
    return poll(lambda: client.batches.retrieve(batch.id), until, seconds=seconds)


def wait_for_end(client: OpenAI, batch: Batch, *, seconds: float = 600) -> Batch:
    """Poll until the batch is in a terminal state."""
    return wait(client, batch, lambda current: current.status not in OPEN, seconds=seconds)


def wait_for_rows(client: OpenAI, batch: Batch, rows: int) -> Batch:
    """Poll until so many rows are answered."""
    return wait(client, batch, lambda current: completed(current) >= rows)


def completed(batch: Batch) -> int:
    """Rows that are answered."""
    return batch.request_counts.completed if batch.request_counts else 0


def output(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()] if file_id else []
