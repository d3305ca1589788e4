"""A control plane in memory that keeps the contract of ``inference_workers.protocol``, and can be told to misbehave.

Strict where the real one is: epochs fence, segment numbers have no gaps, a row is stored once, a repeated segment must
have the same digest. A violation is noted in :attr:`FakeControlPlane.violations`, which tests expect to be empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from inference_workers import protocol

TOKEN = "hone_wk_test"
ENDPOINT = "/v1/chat/completions"


@dataclass
class Shard:
    """Work, and what came of it."""

    id: str
    model: str
    rows: dict[int, dict[str, Any]]
    endpoint: str = ENDPOINT
    row_timeout_seconds: float = 300.0
    organization_id: str = "org_1"
    weight: int = 1
    epoch: int = 0
    wish: protocol.LeaseAction = protocol.LeaseAction.CONTINUE
    state: str = "queued"
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    beats: int = 0
    kind: protocol.LeaseKind = protocol.LeaseKind.BATCH_SHARD
    adapter: protocol.AdapterRef | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    """What the adapter's files are sent as."""

    @property
    def token(self) -> str:
        return f"{self.id}.{self.epoch}"


class FakeControlPlane:
    """Start with :meth:`start`, add work with :meth:`add`, wait with :meth:`until`."""

    def __init__(self) -> None:
        self.url = ""
        self.shards: dict[str, Shard] = {}
        self.calls: list[tuple[str, str]] = []
        self.hellos: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.violations: list[str] = []
        self.segment_sizes: list[int] = []
        self.answered_lines: list[int] = []
        """In the order of their commits."""
        self.inventories: list[list[str]] = []
        self.deleted: set[str] = set()
        """Addresses of adapters that nodes are to drop."""
        self.orders_drain = False
        self.down = False
        """Answer 503 to everything."""
        self.drop_answers: deque[str] = deque()
        """Routes (``segments``, ``complete`` ...) whose next call is carried out, but its answer lost."""
        self.hello_error: tuple[int, str] | None = None
        self.report_error: tuple[int, str] | None = None
        self.token = TOKEN
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._changed = asyncio.Event()

    def add(self, model: str, bodies: list[dict[str, Any]], **options: Any) -> Shard:
        """One shard with a row per body; lines count on from the shards before."""
        first = 1 + sum(len(shard.rows) for shard in self.shards.values())
        rows = {first + index: body for index, body in enumerate(bodies)}
        if "adapter" in options:
            options.setdefault("kind", protocol.LeaseKind.TUNED_SHARD)
        shard = Shard(id=f"lease_{len(self.shards) + 1}", model=model, rows=rows, **options)
        self.shards[shard.id] = shard
        return shard

    async def start(self) -> None:
        app = web.Application(client_max_size=128 * 1024 * 1024, middlewares=[self._gate])
        root = "/internal/v1"
        app.router.add_post(f"{root}/nodes", self._hello)
        app.router.add_post(f"{root}/nodes/{{id}}/heartbeat", self._report)
        app.router.add_post(f"{root}/nodes/{{id}}/leases", self._lease)
        app.router.add_post(f"{root}/nodes/{{id}}/adapters", self._adapters)
        app.router.add_get(f"{root}/leases/{{id}}/input", self._input)
        app.router.add_get(f"{root}/leases/{{id}}/adapter/{{path}}", self._adapter)
        app.router.add_put(f"{root}/leases/{{id}}/segments/{{n}}", self._segment)
        app.router.add_post(f"{root}/leases/{{id}}/complete", self._complete)
        app.router.add_post(f"{root}/leases/{{id}}/fail", self._fail)
        self.add_routes(app.router, root)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    def add_routes(self, router: web.UrlDispatcher, root: str) -> None:
        """What a derived control plane answers besides."""

    async def stop(self) -> None:
        """Also used to be away for a while: :meth:`start` comes back on the same port."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def all_done(self) -> bool:
        return all(shard.state == "completed" for shard in self.shards.values())

    def steal(self, shard: Shard) -> None:
        """As the sweeper would: from now on the holder is fenced."""
        shard.epoch += 1
        shard.state = "stolen"

    def count(self, route: str) -> int:
        return Counter(name for name, _ in self.calls)[route]

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        parts = request.path.split("/")
        route = parts[-2] if parts[-2] == "segments" else parts[-1]
        self.calls.append((route, request.path))
        if self.down:
            self._changed.set()
            return web.Response(status=503)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _error(401, "unauthorized")
        response: web.StreamResponse = await handler(request)
        self._changed.set()
        if route in self.drop_answers:
            self.drop_answers.remove(route)
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _hello(self, request: web.Request) -> web.Response:
        hello = await request.json()
        self.hellos.append(hello)
        protocol.decode(protocol.NodeHello, hello)
        if self.hello_error:
            return _error(*self.hello_error)
        if hello["protocol"] != protocol.PROTOCOL_VERSION:
            return _error(426, "protocol_unsupported")
        return _answer(
            protocol.NodeWelcome(node_id="node_1", heartbeat_seconds=0.2, lease_seconds=10, poll_seconds=0.2)
        )

    async def _report(self, request: web.Request) -> web.Response:
        content = await request.json()
        report = protocol.decode(protocol.NodeReport, content)
        self.reports.append(content)
        if self.report_error:
            return _error(*self.report_error)
        orders = {lease.id: self._renew(lease) for lease in report.leases}
        return _answer(protocol.NodeOrders(drain=self.orders_drain, leases=orders))

    def _renew(self, lease: protocol.HeldLease) -> protocol.LeaseAction:
        shard = self.shards[lease.id]
        if lease.epoch != shard.epoch or shard.state != "leased":
            return protocol.LeaseAction.LOST
        shard.beats += 1
        return shard.wish

    async def _lease(self, request: web.Request) -> web.Response:
        wanted = protocol.decode(protocol.LeaseRequest, await request.json())
        for shard in self.shards.values():
            is_wanted = shard.model in wanted.models and shard.organization_id not in wanted.except_organizations
            if shard.state == "queued" and is_wanted and shard.kind in wanted.kinds:
                shard.state = "leased"
                shard.epoch += 1
                shard.segments = {}
                return _answer(
                    protocol.LeaseGrant(
                        id=shard.id,
                        token=shard.token,
                        epoch=shard.epoch,
                        kind=shard.kind,
                        model=shard.model,
                        organization_id=shard.organization_id,
                        weight=shard.weight,
                        lease_seconds=10,
                        estimated_tokens=len(shard.rows) - len(shard.results),
                        deadline_at=0.0,
                        work=protocol.encode(self._work(shard)),
                    )
                )
        return web.Response(status=204)

    def _work(self, shard: Shard) -> Any:
        if shard.kind is protocol.LeaseKind.CANARY and shard.adapter is not None:
            return protocol.CanaryWork(adapter=shard.adapter)
        return protocol.ShardWork(
            batch_id="batch_1",
            endpoint=shard.endpoint,
            rows=len(shard.rows) - len(shard.results),
            next_segment=0,
            row_timeout_seconds=shard.row_timeout_seconds,
            adapter=shard.adapter,
        )

    def _held(self, request: web.Request) -> Shard | None:
        shard = self.shards[request.match_info["id"]]
        fresh = request.headers.get(protocol.LEASE_HEADER) == shard.token
        return shard if fresh and shard.state == "leased" else None

    async def _input(self, request: web.Request) -> web.StreamResponse:
        shard = self._held(request)
        if shard is None:
            return _error(409, "lease_lost")
        lines = [
            json.dumps({"line": line, "body": body}) for line, body in shard.rows.items() if line not in shard.results
        ]
        return web.Response(text="\n".join(lines) + "\n", content_type="application/x-ndjson")

    async def _adapter(self, request: web.Request) -> web.StreamResponse:
        shard = self._held(request)
        if shard is None:
            return _error(409, "lease_lost")
        return web.Response(body=shard.files[request.match_info["path"]], content_type="application/octet-stream")

    async def _adapters(self, request: web.Request) -> web.Response:
        inventory = protocol.decode(protocol.AdapterInventory, await request.json())
        self.inventories.append(inventory.addresses)
        return _answer(protocol.AdapterOrders(drop=[one for one in inventory.addresses if one in self.deleted]))

    async def _segment(self, request: web.Request) -> web.Response:
        content = await request.read()
        shard, number = self._held(request), int(request.match_info["n"])
        if shard is None:
            return _error(409, "lease_lost")
        digest = hashlib.sha256(content).hexdigest()
        if number in shard.segments:
            same = shard.segments[number] == digest
            if not same:
                self.violations.append(f"{shard.id} segment {number} came again with other bytes")
            return web.json_response({}) if same else _error(409, "segment_conflict")
        if number != len(shard.segments):
            self.violations.append(f"{shard.id} segment {number} after {len(shard.segments)} others")
        rows = [json.loads(line) for line in content.splitlines()]
        for row in rows:
            protocol.decode(protocol.RowResult, row)
            if row["line"] in shard.results or row["line"] not in shard.rows:
                self.violations.append(f"{shard.id} row {row['line']} is there already, or not of this shard")
            shard.results[row["line"]] = row
            self.answered_lines.append(row["line"])
        if not 0 < len(rows) <= protocol.MAX_SEGMENT_ROWS:
            self.violations.append(f"{shard.id} segment {number} has {len(rows)} rows")
        shard.segments[number] = digest
        self.segment_sizes.append(len(rows))
        return web.json_response({}, status=201)

    async def _complete(self, request: web.Request) -> web.Response:
        shard = self._held(request)
        if shard is None:
            finished = self.shards[request.match_info["id"]].state == "completed"
            return web.json_response({}) if finished else _error(409, "lease_lost")
        if len(shard.results) != len(shard.rows):
            self.violations.append(f"{shard.id} completed with {len(shard.results)} of {len(shard.rows)} rows")
            return _error(409, "rows_missing")
        shard.state = "completed"
        return web.json_response({})

    async def _fail(self, request: web.Request) -> web.Response:
        failure = await request.json()
        protocol.decode(protocol.LeaseFailure, failure)
        shard = self._held(request)
        if shard is None:
            return _error(409, "lease_lost")
        shard.failures.append(failure)
        shard.state = "queued" if failure["retryable"] else "failed"
        return web.json_response({})


def _answer(message: Any) -> web.Response:
    return web.json_response(protocol.encode(message))


def _error(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"message": code, "type": "error", "param": None, "code": code}}, status=status)
