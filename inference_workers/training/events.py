"""What the run reports: ``events.ndjson``, append only, numbered from 1 without gaps across restarts.

A line is whole or it is not there: what a kill has torn is cut off at the next start, and its number is used again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventLog:
    """A run's events; of several processes one is the writer, and what the others report goes nowhere."""

    def __init__(self, path: Path, *, is_writer: bool = True) -> None:
        self.last: dict[str, Any] | None = None
        self.announced: set[int] = set()
        """Steps whose checkpoint has been reported."""
        whole = 0
        for end, event in _whole_lines(path):
            whole, self.last = end, event
            if event["kind"] == "checkpoint":
                self.announced.add(event["step"])
        self._seq: int = self.last["seq"] if self.last else 0
        self._stream = path.open("ab") if is_writer else None
        if self._stream is not None:
            self._stream.truncate(whole)

    def metrics(self, **values: Any) -> None:
        """Numbers of a step."""
        self._write("metrics", values)

    def message(self, text: str, level: str = "info") -> None:
        """Something for people to read; levels are info and warn."""
        self._write("message", {"level": level, "message": text})

    def checkpoint(self, *, step: int, path: str, interim: bool, metrics: dict[str, Any]) -> None:
        """A folder is complete, on disk, and may be taken. An interim one is there to go on from, not to be kept."""
        self._write("checkpoint", {"step": step, "path": path, "interim": interim, "metrics": metrics}, durable=True)
        self.announced.add(step)

    def done(self, *, step: int, trained_tokens: int, best_step: int) -> None:
        """The adapter is there."""
        self._write("done", {"step": step, "trained_tokens": trained_tokens, "best_step": best_step}, durable=True)

    def failed(self, code: str, message: str) -> None:
        """The run cannot go on."""
        self._write("failed", {"code": code, "message": message}, durable=True)

    def close(self) -> None:
        """Put what was written on the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()

    def _write(self, kind: str, values: dict[str, Any], *, durable: bool = False) -> None:
        if self._stream is None:
            return
        self._seq += 1
        self.last = {"seq": self._seq, "kind": kind} | values
        self._stream.write(json.dumps(self.last, allow_nan=False).encode() + b"\n")
        self._stream.flush()
        if durable:
            os.fsync(self._stream.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset of the end, event) of each line up to the first that is not whole."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                event = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(event, dict):
                return
            end += len(line)
            yield end, event
