"""The node's side of ``/internal/v1``: one method per route of :mod:`.protocol`.

Every call has a timeout. Calls that must arrive (segments, the end of a lease) are repeated until the control plane
answers, for hours if need be; calls that the next tick repeats anyway (heartbeats, asking for work) are tried once.
Files go from disk to disk, whatever their size.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson
import structlog

from . import protocol

CALL_SECONDS = 30.0
BEAT_SECONDS = 5.0
INPUT_SECONDS = 600.0
SEGMENT_SECONDS = 120.0
FILE_SECONDS = 3_600.0
CHUNK_BYTES = 1024 * 1024
FIRST_RETRY_SECONDS = 0.25
MAX_RETRY_SECONDS = 5.0
UNAUTHORIZED_RETRY_SECONDS = 30.0

Message = TypeVar("Message")

log = structlog.get_logger(__name__)


class ControlPlaneError(Exception):
    """The control plane answered with an error; ``status`` and ``code`` as it gave them."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Unavailable(ControlPlaneError):
    """No answer, or 5xx or 429: try again later."""


class Unauthorized(Unavailable):
    """The worker token is not accepted, which an operator can mend while the agent runs."""


class LeaseLost(ControlPlaneError):
    """Somebody else may hold the work now: nothing more may be sent for it."""


class SegmentConflict(ControlPlaneError):
    """Another content is stored under that segment's number."""


class RowsMissing(ControlPlaneError):
    """The control plane does not have a result for each of the lease's rows."""


class FileDamaged(ControlPlaneError):
    """What has been received is not what was announced."""


class NodeUnknown(ControlPlaneError):
    """The control plane does not know the node (any more): it must say hello again."""


class NodeReplaced(ControlPlaneError):
    """Another agent has taken this node's name."""


class ProtocolUnsupported(ControlPlaneError):
    """Agent and control plane are of versions that do not understand one another."""


_BY_CODE: dict[str, type[ControlPlaneError]] = {
    "lease_lost": LeaseLost,
    "segment_conflict": SegmentConflict,
    "rows_missing": RowsMissing,
    "node_replaced": NodeReplaced,
    "node_unknown": NodeUnknown,
    "protocol_unsupported": ProtocolUnsupported,
}
_BY_STATUS: dict[int, type[ControlPlaneError]] = {401: Unauthorized, 426: ProtocolUnsupported, 429: Unavailable}


class ControlPlane:
    """A connection pool to one control plane."""

    def __init__(self, url: str, token: str) -> None:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(limit=0)
        )
        self._root = f"{url}/internal/v1"

    async def close(self) -> None:
        await self._session.close()

    async def hello(self, hello: protocol.NodeHello) -> protocol.NodeWelcome:
        """Introduce the node; waits for the control plane to be there."""
        answer = await self._persist("POST", "nodes", orjson.dumps(hello))
        return _decode(protocol.NodeWelcome, answer)

    async def heartbeat(self, node_id: str, report: protocol.NodeReport) -> protocol.NodeOrders:
        """Renews every lease that the report names."""
        _, answer = await self._call("POST", f"nodes/{node_id}/heartbeat", orjson.dumps(report), seconds=BEAT_SECONDS)
        return _decode(protocol.NodeOrders, answer)

    async def request_lease(self, node_id: str, request: protocol.LeaseRequest) -> protocol.LeaseGrant | None:
        """Work, or None when there is none."""
        status, answer = await self._call("POST", f"nodes/{node_id}/leases", orjson.dumps(request))
        return None if status == 204 else _decode(protocol.LeaseGrant, answer)

    async def read_input(self, lease: protocol.LeaseGrant) -> list[protocol.WorkRow]:
        """All rows of a shard: read in one go, so that no connection is held open while the engine works."""
        content = await self._persist("GET", f"leases/{lease.id}/input", lease=lease, seconds=INPUT_SECONDS)
        return [_decode(protocol.WorkRow, line) for line in content.split(b"\n") if line]

    async def download(self, lease: protocol.LeaseGrant, path: str, target: Path, *, max_bytes: int) -> str:
        """Bytes that the lease's work needs, into a file; their SHA-256. Repeated until they have come whole."""
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                return await self._download(lease, path, target, max_bytes)
            except Unavailable as error:
                log.warning("control_plane_unavailable", call=f"GET {path}", error=str(error))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def report_adapters(self, node_id: str, inventory: protocol.AdapterInventory) -> protocol.AdapterOrders:
        """Ask which of the adapters that the node keeps have been deleted."""
        _, answer = await self._call("POST", f"nodes/{node_id}/adapters", orjson.dumps(inventory))
        return _decode(protocol.AdapterOrders, answer)

    async def put_segment(self, lease: protocol.LeaseGrant, number: int, content: bytes) -> None:
        """Commit rows; repeated with the same bytes under the same number until it is known to be stored."""
        path = f"leases/{lease.id}/segments/{number}"
        await self._persist("PUT", path, content, lease=lease, seconds=SEGMENT_SECONDS, kind="application/x-ndjson")

    async def send_events(self, lease: protocol.LeaseGrant, events: protocol.TrainingEvents) -> None:
        """Report what a trainer has written; sent again until it is known to have arrived."""
        await self._persist("POST", f"leases/{lease.id}/events", orjson.dumps(events), lease=lease)

    async def put_file(self, lease: protocol.LeaseGrant, path: str, file: Path) -> None:
        """Put an artefact; sent again until it is known to be stored. OSError when there is no such file."""
        digest = await asyncio.to_thread(sha256_of, file)
        await self._persist(
            "PUT",
            f"leases/{lease.id}/artifacts/{path}",
            file,
            lease=lease,
            seconds=FILE_SECONDS,
            kind="application/octet-stream",
            headers={protocol.DIGEST_HEADER: digest},
        )

    async def fetch_file(self, lease: protocol.LeaseGrant, path: str, target: Path, wanted: protocol.BlobRef) -> None:
        """Bring ``inputs/...`` or ``artifacts/...`` of a lease here; :class:`FileDamaged` if it is something else."""
        if await self.download(lease, path, target, max_bytes=wanted.bytes) != wanted.sha256:
            raise FileDamaged(f"{path} is not what the control plane says it is")

    async def complete(self, lease: protocol.LeaseGrant) -> None:
        await self._persist("POST", f"leases/{lease.id}/complete", lease=lease)

    async def fail(self, lease: protocol.LeaseGrant, failure: protocol.LeaseFailure) -> None:
        await self._persist("POST", f"leases/{lease.id}/fail", orjson.dumps(failure), lease=lease)

    async def _persist(self, method: str, path: str, body: bytes | Path = b"", **options: Any) -> bytes:
        """Call until there is an answer that is not 'later'."""
        wait = FIRST_RETRY_SECONDS
        while True:
            try:
                return (await self._call(method, path, body, **options))[1]
            except Unavailable as error:
                if isinstance(error, Unauthorized):
                    wait = UNAUTHORIZED_RETRY_SECONDS
                log.warning("control_plane_unavailable", call=f"{method} {path}", error=str(error))
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, not a secret
            wait = min(2 * wait, MAX_RETRY_SECONDS)

    async def _download(self, lease: protocol.LeaseGrant, path: str, target: Path, max_bytes: int) -> str:
        digest, size = hashlib.sha256(), 0
        try:
            async with self._session.get(
                f"{self._root}/leases/{lease.id}/{path}",
                headers={protocol.LEASE_HEADER: lease.token},
                timeout=aiohttp.ClientTimeout(total=None, sock_read=CALL_SECONDS),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read(), of_lease=True)
                with target.open("wb") as file:
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        size += len(chunk)
                        if size > max_bytes:
                            raise ControlPlaneError(f"{path} has more than the {max_bytes} bytes that it should have")
                        digest.update(chunk)
                        file.write(chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"no answer from the control plane: {type(error).__name__}: {error}") from error
        return digest.hexdigest()

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | Path = b"",
        *,
        lease: protocol.LeaseGrant | None = None,
        seconds: float = CALL_SECONDS,
        kind: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        sent = {**(headers or {}), **({"Content-Type": kind} if body else {})}
        if lease is not None:
            sent[protocol.LEASE_HEADER] = lease.token
        with contextlib.ExitStack() as stack:
            # Opened for each try: a file that was sent has been read to its end.
            data = stack.enter_context(body.open("rb")) if isinstance(body, Path) else body or None
            try:
                async with self._session.request(
                    method,
                    f"{self._root}/{path}",
                    data=data,
                    headers=sent,
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    allow_redirects=False,
                ) as response:
                    content = await response.read()
                    if 200 <= response.status < 300:
                        return response.status, content
                    raise _error(response.status, content, of_lease=lease is not None)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unavailable(f"no answer from the control plane: {type(error).__name__}: {error}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _decode(kind: type[Message], content: bytes) -> Message:
    try:
        return protocol.decode(kind, orjson.loads(content))
    except (orjson.JSONDecodeError, protocol.MessageError) as error:
        raise ControlPlaneError(f"the control plane's answer is not a {kind.__name__}: {error}") from error


def _error(status: int, content: bytes, *, of_lease: bool) -> ControlPlaneError:
    """The exception of an answer in OpenAI's error shape, or of any other text."""
    try:
        details = orjson.loads(content)["error"]
        code, message = str(details["code"]), str(details["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code, message = "", content[:200].decode(errors="replace")
    if status >= 500:
        kind: type[ControlPlaneError] = Unavailable
    elif status == 404:
        kind = LeaseLost if of_lease else NodeUnknown
    else:
        kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or ControlPlaneError
    if kind is Unauthorized:
        message = f"the control plane does not accept the worker token ({message or status})"
    return kind(f"{status} {code}: {message}", status=status, code=code)
