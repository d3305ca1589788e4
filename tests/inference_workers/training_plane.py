"""The control plane in memory, with trainings; as strict as the real one about the order of things."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from inference_workers import protocol
from tests.inference_workers.control_plane import FakeControlPlane

Action = protocol.LeaseAction
REVISION = "f" * 64


@dataclass
class Job:
    """A training, and what came of it."""

    id: str
    model: str
    spec: dict[str, Any]
    inputs: dict[str, bytes]
    epoch: int = 0
    state: str = "queued"
    wish: protocol.LeaseAction = Action.CONTINUE
    artifacts: dict[str, bytes] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def token(self) -> str:
        return f"{self.id}.{self.epoch}"

    @property
    def steps(self) -> list[int]:
        """Of which metrics have come, each once."""
        return list(dict.fromkeys(event["step"] for event in self.events if event["kind"] == "metrics"))

    @property
    def losses(self) -> dict[int, set[float]]:
        """By step, all that was ever reported."""
        found: dict[int, set[float]] = {}
        for event in self.events:
            if event["kind"] == "metrics":
                found.setdefault(event["step"], set()).add(event["train_loss"])
        return found


class TrainingPlane(FakeControlPlane):
    """Add work with :meth:`add_job`."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}

    def add_job(self, model: str, *, rows: int = 10, **spec: Any) -> Job:
        """A training of so many steps as there are rows."""
        data = b"".join(json.dumps({"line": line, "ids": [1] * 10}).encode() + b"\n" for line in range(1, rows + 1))
        job = Job(f"lease_t{len(self.jobs) + 1}", model, {"seed": 7, **spec}, {"train.ndjson": data})
        self.jobs[job.id] = job
        return job

    def add_routes(self, router: web.UrlDispatcher, root: str) -> None:
        router.add_get(f"{root}/leases/{{id}}/inputs/{{path:.+}}", self._read_input)
        router.add_get(f"{root}/leases/{{id}}/artifacts/{{path:.+}}", self._read_artifact)
        router.add_put(f"{root}/leases/{{id}}/artifacts/{{path:.+}}", self._put_artifact)
        router.add_post(f"{root}/leases/{{id}}/events", self._events)

    def _renew(self, lease: protocol.HeldLease) -> protocol.LeaseAction:
        job = self.jobs.get(lease.id)
        if job is None:
            return super()._renew(lease)
        return job.wish if lease.epoch == job.epoch and job.state == "leased" else Action.LOST

    async def _lease(self, request: web.Request) -> web.Response:
        wanted = protocol.decode(protocol.LeaseRequest, await request.json())
        if protocol.LeaseKind.TRAINING not in wanted.kinds:
            return await super()._lease(request)
        ready = {report["name"] for report in self.reports[-1]["models"] if report["trains"]}
        for job in self.jobs.values():
            if job.state == "queued" and job.model in ready & set(wanted.models):
                job.state = "leased"
                job.epoch += 1
                return self._grant(job)
        return web.Response(status=204)

    def _grant(self, job: Job) -> web.Response:
        resume = None
        if job.checkpoints:
            folder = f"checkpoints/step-{job.checkpoints[-1]}/"
            files = {path.removeprefix(folder): data for path, data in job.artifacts.items() if path.startswith(folder)}
            resume = protocol.ResumePoint(step=job.checkpoints[-1], files=_references(files))
        work = protocol.TrainingWork(
            job_id="ftjob-1",
            base_revision=REVISION,
            spec=job.spec,
            inputs=_references(job.inputs),
            resume=resume,
            events_seen=len(job.events),
        )
        return web.json_response(
            protocol.encode(
                protocol.LeaseGrant(
                    id=job.id,
                    token=job.token,
                    epoch=job.epoch,
                    kind=protocol.LeaseKind.TRAINING,
                    model=job.model,
                    organization_id="org_1",
                    weight=1,
                    lease_seconds=10,
                    estimated_tokens=100,
                    deadline_at=0.0,
                    work=protocol.encode(work),
                )
            )
        )

    def _job(self, request: web.Request) -> Job | None:
        job = self.jobs.get(request.match_info["id"])
        is_fresh = job is not None and request.headers.get(protocol.LEASE_HEADER) == job.token
        return job if is_fresh and job is not None and job.state == "leased" else None

    async def _read_input(self, request: web.Request) -> web.Response:
        job = self._job(request)
        return web.Response(body=job.inputs[request.match_info["path"]]) if job else _lost()

    async def _read_artifact(self, request: web.Request) -> web.Response:
        job = self._job(request)
        return web.Response(body=job.artifacts[request.match_info["path"]]) if job else _lost()

    async def _put_artifact(self, request: web.Request) -> web.Response:
        data = await request.read()
        job, path = self._job(request), request.match_info["path"]
        if job is None:
            return _lost()
        if hashlib.sha256(data).hexdigest() != request.headers[protocol.DIGEST_HEADER]:
            self.violations.append(f"{path} came with a wrong digest")
        is_new = job.artifacts.get(path) != data
        job.artifacts[path] = data
        return web.json_response({}, status=201 if is_new else 200)

    async def _events(self, request: web.Request) -> web.Response:
        content = await request.json()
        protocol.decode(protocol.TrainingEvents, content)
        job = self._job(request)
        if job is None:
            return _lost()
        for event in content["events"]:
            if event["seq"] <= len(job.events):
                continue
            if event["seq"] != len(job.events) + 1:
                self.violations.append(f"event {event['seq']} after {len(job.events)} others")
            self._check_files(job, event)
            job.events.append(event)
        return web.json_response({})

    def _check_files(self, job: Job, event: dict[str, Any]) -> None:
        folder = ""
        names: tuple[str, ...] = (*protocol.ADAPTER_FILES, *protocol.STATE_FILES)
        if event["kind"] == "checkpoint":
            folder = f"checkpoints/step-{event['step']}"
            if event["step"] not in job.checkpoints:
                job.checkpoints.append(event["step"])
        elif event["kind"] == "done":
            folder, names = "adapter", protocol.ADAPTER_FILES
        if folder and not all(f"{folder}/{name}" in job.artifacts for name in names):
            self.violations.append(f"{event['kind']} of step {event['step']} without its files")

    async def _complete(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.jobs:
            return await super()._complete(request)
        job = self._job(request)
        if job is None:
            return _lost()
        if job.events[-1]["kind"] != "done":
            self.violations.append("completed without being done")
        job.state = "completed"
        return web.json_response({})

    async def _fail(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.jobs:
            return await super()._fail(request)
        failure = await request.json()
        job = self._job(request)
        if job is None:
            return _lost()
        job.failures.append(failure)
        job.state = "paused" if failure["code"] == "paused" else "queued" if failure["retryable"] else "failed"
        return web.json_response({})


def _references(files: dict[str, bytes]) -> dict[str, protocol.BlobRef]:
    return {
        name: protocol.BlobRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in files.items()
    }


def _lost() -> web.Response:
    return web.json_response(
        {"error": {"message": "lost", "type": "error", "param": None, "code": "lease_lost"}}, status=409
    )
