"""One row of a batch: from the request in the customer's file to a result, whatever the engine does."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from .engine_server import EngineServer, EngineTrouble
from .protocol import RowError, RowResult, WorkRow

TRIES = 4
"""Per row, on an engine that is alive but answers 5xx, 408, 429 or nonsense."""
FIRST_RETRY_SECONDS = 0.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Row:
    """A request waiting for its answer; compared by identity."""

    lease_id: str
    line: int
    body: bytes
    """JSON, as the engine gets it."""
    endpoint: str
    """Path below the engine's root."""
    requests: int = 1
    """As how many requests the engine counts it."""


def row_of(lease_id: str, work: WorkRow, members: dict[str, int], *, endpoint: str) -> Row:
    """The row of a lease; ``members`` are what this engine gets with every row of a batch."""
    prompt = work.body.get("prompt", work.body.get("input"))
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    choices = work.body.get("n")
    requests = prompts * choices if isinstance(choices, int) and choices > 0 else prompts
    return Row(lease_id, work.line, orjson.dumps(work.body | members), endpoint, requests)


async def answer_row(server: EngineServer, row: Row, *, timeout_seconds: float) -> RowResult:
    """The row's result. Raises ``EngineDied``; cancelling it aborts the request in the engine."""
    request_id = f"req_{secrets.token_hex(16)}"
    for attempt in range(TRIES):
        try:
            async with asyncio.timeout(timeout_seconds):
                status, body = await server.post(row.endpoint, row.body, request_id=request_id)
            return RowResult(line=row.line, request_id=request_id, status=status, body=body)
        except TimeoutError:
            message = f"The request was not answered within {timeout_seconds:g} seconds."
            return failed_row(row, "request_timeout", message, request_id)
        except EngineTrouble as trouble:
            log.warning("row_retried", line=row.line, reason=str(trouble), attempt=attempt + 1)
        await asyncio.sleep(FIRST_RETRY_SECONDS * 2**attempt)
    return failed_row(row, "worker_failure", "The model's engine could not answer this request.", request_id)


def failed_row(row: Row, code: str, message: str, request_id: str = "") -> RowResult:
    """A result without a response."""
    return RowResult(line=row.line, request_id=request_id, error=RowError(code=code, message=message))


def tokens_of(result: RowResult) -> int:
    """Prompt and completion tokens together."""
    return sum(token_counts(result))


def token_counts(result: RowResult) -> tuple[int, int]:
    """Prompt and completion tokens, as the engine counted them; 0 where it did not."""
    usage: Any = (result.body or {}).get("usage")
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (0, 0)
    prompt, completion = (count if isinstance(count, int) else 0 for count in counts)
    return prompt, completion


def encode_result(result: RowResult) -> bytes:
    """One line of a segment's NDJSON."""
    return orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE)
