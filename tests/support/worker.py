"""A worker node as a test drives it: through the internal API, one step at a time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from django.test import Client

from fleet.selectors import has_control_work
from fleet.services import create_worker_token
from fleet.tasks import run_control_work
from inference_workers.protocol import DIGEST_HEADER, LEASE_HEADER, PROTOCOL_VERSION
from tests.support.cast import MODEL


def run_control() -> None:
    """Do all waiting work of the control plane, as its Celery workers would."""
    while has_control_work():
        run_control_work()


@dataclass
class Grant:
    """A lease that the worker holds."""

    worker: "Worker"
    id: str
    token: str
    epoch: int
    work: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """The rows to answer."""
        answer = self.worker.call("GET", f"leases/{self.id}/input", lease=self)
        assert answer.status_code == 200, answer.content
        return [orjson.loads(line) for line in answer.getvalue().splitlines()]

    def put(self, number: int, results: list[dict[str, Any]]) -> Any:
        """Commit a segment."""
        return self.worker.call(
            "PUT",
            f"leases/{self.id}/segments/{number}",
            b"".join(orjson.dumps(result) + b"\n" for result in results),
            lease=self,
            content_type="application/x-ndjson",
        )

    def heartbeat(self) -> str:
        """The node's heartbeat with this lease alone; what its holder is told to do."""
        answer = self.worker.report(leases=[{"id": self.id, "epoch": self.epoch}])
        assert answer.status_code == 200, answer.content
        action: str = answer.json()["leases"][self.id]
        return action

    def report(self, *events: dict[str, Any]) -> Any:
        """Send events of a trainer."""
        return self.worker.call("POST", f"leases/{self.id}/events", {"events": events}, lease=self)

    def upload(self, path: str, content: bytes, *, sha256: str | None = None) -> Any:
        """Put an artefact."""
        digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
        return self.worker.call(
            "PUT",
            f"leases/{self.id}/artifacts/{path}",
            content,
            lease=self,
            content_type="application/octet-stream",
            headers={DIGEST_HEADER: digest},
        )

    def download(self, path: str) -> Any:
        """``inputs/{name}`` or ``artifacts/{path}``."""
        return self.worker.call("GET", f"leases/{self.id}/{path}", lease=self)

    def complete(self) -> Any:
        """Say that it is done."""
        return self.worker.call("POST", f"leases/{self.id}/complete", {}, lease=self)

    def fail(self, code: str = "broken", *, message: str = "in a test", retryable: bool = True) -> Any:
        """Give it back."""
        body = {"code": code, "message": message, "retryable": retryable}
        return self.worker.call("POST", f"leases/{self.id}/fail", body, lease=self)


@dataclass
class Worker:
    """A node that has said hello, and reported its models ready."""

    name: str = "node-1"
    token: str = ""
    incarnation: str = field(default_factory=lambda: uuid4().hex)
    node_id: str = ""
    models: tuple[str, ...] = (MODEL,)

    def __post_init__(self) -> None:
        self.token = self.token or create_worker_token(name=self.name).token
        answer = self.hello()
        assert answer.status_code == 200, answer.content
        self.node_id = answer.json()["node_id"]
        assert self.report().status_code == 200

    def hello(self, *, protocol: int = PROTOCOL_VERSION) -> Any:
        """Register."""
        return self.call(
            "POST",
            "nodes",
            {"protocol": protocol, "name": self.name, "incarnation": self.incarnation, "models": self.models},
        )

    def report(self, *, state: str = "ready", leases: list[dict[str, Any]] | None = None, **model: Any) -> Any:
        """The node's heartbeat; ``model`` are more fields of its models' reports."""
        body = {
            "incarnation": self.incarnation,
            "models": [{"name": name, "state": state, **model} for name in self.models],
            "leases": leases or [],
        }
        return self.call("POST", f"nodes/{self.node_id}/heartbeat", body)

    def request_lease(self, *, model: str = MODEL, **changes: Any) -> Any:
        """Ask for work; ``changes`` replace fields of the request."""
        kinds = ["batch_shard", "tuned_shard"]
        body = {"incarnation": self.incarnation, "kinds": kinds, "models": [model], **changes}
        return self.call("POST", f"nodes/{self.node_id}/leases", body)

    def lease(self, *, model: str = MODEL, kind: str = "") -> Grant:
        """Ask for work that must be there: rows, unless another kind is named."""
        answer = self.request_lease(model=model, **({"kinds": [kind]} if kind else {}))
        assert answer.status_code == 200, answer.content
        return self._granted(answer)

    def leases(self, kind: str) -> Iterator[Grant]:
        """Work of a kind, for as long as some waits."""
        while (answer := self.request_lease(kinds=[kind])).status_code == 200:
            yield self._granted(answer)

    def _granted(self, answer: Any) -> Grant:
        grant = answer.json()
        return Grant(self, grant["id"], grant["token"], grant["epoch"], grant["work"])

    def answer_all(self, *, model: str = MODEL, **tokens: int) -> int:
        """Lease, answer (``tokens`` as in :func:`result`) and complete until nothing waits; how many rows."""
        rows = 0
        while (answer := self.request_lease(model=model)).status_code == 200:
            grant = Grant(self, answer.json()["id"], answer.json()["token"], 0, answer.json()["work"])
            results = [result(row["line"], **tokens) for row in grant.rows()]
            number = grant.work["next_segment"]
            for start in range(0, len(results), 16):
                stored = grant.put(number, results[start : start + 16])
                assert stored.status_code == 201, stored.content
                number += 1
            assert grant.complete().status_code == 200
            rows += len(results)
        return rows

    def call(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        lease: Grant | None = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Any:
        """One call of the internal API."""
        headers = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if lease is not None:
            headers[LEASE_HEADER] = lease.token
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        client = Client(raise_request_exception=False)
        return client.generic(method, f"/internal/v1/{path}", data, content_type=content_type, headers=headers)


def refusal(line: int, status: int = 400) -> dict[str, Any]:
    """An engine that will not answer a row."""
    body = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
    return {"line": line, "request_id": f"req_{line}", "status": status, "body": body}


def failure(line: int, code: str = "request_timeout") -> dict[str, Any]:
    """A row without any response."""
    return {"line": line, "error": {"code": code, "message": "in a test"}}


def result(line: int, *, prompt_tokens: int = 10, cached: int = 0, completion_tokens: int = 5) -> dict[str, Any]:
    """The answer of an engine to one row."""
    return {
        "line": line,
        "request_id": f"req_{line}",
        "status": 200,
        "body": {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": f"answer {line}"}}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens": completion_tokens,
            },
        },
    }
