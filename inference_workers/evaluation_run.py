"""One lease of kind ``evaluation``: every held-out row asked of both models, the answers sent as one artefact.

Its rows run in :mod:`.batch` beside those of batches, at their priority and in their order of fairness, and as they do
they survive engines that die. What is answered is with the control plane only at the end: an agent that is killed
begins anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from . import protocol
from .adapters import AdapterStore
from .client import ControlPlane
from .evaluation import QUESTIONS, Answers, Question, questions_of
from .held_lease import HeldLease
from .rows import Row

INPUT = "inputs/evaluation.ndjson"
RESULT = "evaluation.ndjson"


class EvaluationRun(HeldLease):
    """Up to four rows of the engine's for each of the customer's."""

    def __init__(
        self,
        grant: protocol.LeaseGrant,
        control_plane: ControlPlane,
        on_change: Callable[[], None],
        *,
        members: Mapping[str, Any],
        store: AdapterStore,
    ) -> None:
        """``members`` are added to the body of every row."""
        self.work = protocol.decode(protocol.EvaluationWork, grant.work)
        super().__init__(
            grant, control_plane, on_change, adapter=self.work.adapter, store=store, evaluation_of=self.work.job_id
        )
        self._members = members
        self._answers: dict[int, Answers] = {}

    @property
    def row_timeout_seconds(self) -> float:
        """As the control plane wishes."""
        return self.work.row_timeout_seconds

    @property
    def expected(self) -> int:
        """At most."""
        return QUESTIONS * self.work.rows

    def finish(self, row: Row, result: protocol.RowResult, seconds: float) -> None:
        """Note the answer."""
        assert isinstance(row, Question)  # noqa: S101  # no others are waiting
        assert self._unfinished is not None  # noqa: S101  # the row has been read
        self._answers[row.line].take(row, result)
        self._unfinished -= 1
        if self._unfinished == 0:
            self._news.set()

    async def _read(self) -> list[Row]:
        with tempfile.TemporaryDirectory() as folder:  # private: it holds a customer's data
            path = Path(folder) / "rows"
            await self._control_plane.fetch_file(self.grant, INPUT, path, self.work.data)
            rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        self._answers = {row["line"]: Answers(row, self.work) for row in rows}
        return [
            question
            for row in rows
            for question in questions_of(
                row, lease_id=self.grant.id, base=self.grant.model, work=self.work, members=self._members
            )
        ]

    async def _deliver(self) -> None:
        while self._failure is None and self._unfinished != 0:
            self._news.clear()
            await self._news.wait()
        if self._failure is not None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results"
            lines = (orjson.dumps(found.result(), option=orjson.OPT_APPEND_NEWLINE) for found in self._answers.values())
            path.write_bytes(b"".join(lines))
            await self._control_plane.put_file(self.grant, RESULT, path)
