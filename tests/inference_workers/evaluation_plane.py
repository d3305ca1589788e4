"""The control plane in memory, with evaluations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from inference_workers import protocol
from tests.inference_workers.control_plane import FakeControlPlane, Shard
from tests.support.adapter_files import distinct_contents, reference

TUNED = "ft:stand-in:org:support:1"


@dataclass
class Evaluation(Shard):
    """Held-out rows, and what a node has made of them."""

    data: bytes = b""
    artifacts: dict[str, bytes] = field(default_factory=dict)

    @property
    def found(self) -> list[dict[str, Any]]:
        """Both models' answers, in the order in which they came."""
        return [json.loads(line) for line in self.artifacts["evaluation.ndjson"].splitlines()]


class EvaluationPlane(FakeControlPlane):
    """Add work with :meth:`add_evaluation`."""

    def add_evaluation(self, model: str, rows: Sequence[dict[str, Any]], **options: Any) -> Evaluation:
        """Of a tuned model whose adapter the node has to fetch."""
        files = options.pop("files", distinct_contents(TUNED))
        evaluation = Evaluation(
            id=f"lease_{len(self.shards) + 1}",
            model=model,
            rows={},
            kind=protocol.LeaseKind.EVALUATION,
            adapter=reference(options.pop("name", TUNED), files),
            files=files,
            data=b"".join(json.dumps(row).encode() + b"\n" for row in rows),
            **options,
        )
        self.shards[evaluation.id] = evaluation
        return evaluation

    def add_routes(self, router: web.UrlDispatcher, root: str) -> None:
        router.add_get(f"{root}/leases/{{id}}/inputs/evaluation.ndjson", self._read_rows)
        router.add_put(f"{root}/leases/{{id}}/artifacts/{{path:.+}}", self._put_artifact)

    def _work(self, shard: Shard) -> Any:
        if not isinstance(shard, Evaluation) or shard.adapter is None:
            return super()._work(shard)
        digest = hashlib.sha256(shard.data).hexdigest()
        return protocol.EvaluationWork(
            job_id="ftjob-1",
            adapter=shard.adapter,
            rows=len(shard.data.splitlines()),
            data=protocol.BlobRef(sha256=digest, bytes=len(shard.data)),
            context_length=256,
            row_timeout_seconds=shard.row_timeout_seconds,
            cache_salt="salt",
        )

    async def _read_rows(self, request: web.Request) -> web.Response:
        shard = self._held(request)
        return web.Response(body=shard.data) if isinstance(shard, Evaluation) else _lost()

    async def _put_artifact(self, request: web.Request) -> web.Response:
        content = await request.read()
        shard = self._held(request)
        if not isinstance(shard, Evaluation):
            return _lost()
        if hashlib.sha256(content).hexdigest() != request.headers[protocol.DIGEST_HEADER]:
            self.violations.append("an artefact came with a wrong digest")
        shard.artifacts[request.match_info["path"]] = content
        return web.json_response({}, status=201)

    async def _complete(self, request: web.Request) -> web.Response:
        shard = self._held(request)
        if isinstance(shard, Evaluation) and "evaluation.ndjson" not in shard.artifacts:
            self.violations.append("completed without results")
        return await super()._complete(request)


def _lost() -> web.Response:
    return web.json_response(
        {"error": {"message": "lost", "type": "error", "param": None, "code": "lease_lost"}}, status=409
    )
