"""``/internal/v1``: what nodes call. The messages are :mod:`inference_workers.protocol`."""

from typing import Any, TypeVar
from uuid import UUID

import orjson
from django.conf import settings
from django.core import signing
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from catalog.selectors import live_addresses
from common.errors import HoneError
from common.ids import from_wire
from common.storage import BlobRange
from fleet.claims import claim_lease
from fleet.handlers import handler_of
from fleet.models import Lease, Node, WorkerToken
from fleet.reports import take_report
from fleet.selectors import find_held_lease, find_node, find_worker_token
from fleet.services import check_protocol, complete_lease, register_node, release_lease
from inference_workers import protocol
from tenants.access import bearer_token
from tenants.models import Organization
from tenants.scope import tenant_scope

Message = TypeVar("Message")
MAX_ADAPTERS = 1_000
"""That a node may ask about at once."""
_SALT = "fleet.lease"


class WorkerAPIView(APIView):
    """A view for nodes: a worker token opens it."""

    token: WorkerToken

    def initial(self, request: Request, *args: object, **kwargs: Any) -> None:
        """Authenticate before the handler."""
        super().initial(request, *args, **kwargs)
        self.authenticate(request, **kwargs)

    def authenticate(self, request: Request, **place: str) -> None:
        """Find out who calls; ``place`` is what the route captured."""
        token = find_worker_token(bearer_token(request))
        if token is None:
            raise HoneError(
                "invalid_worker_token", "Unknown or revoked worker token; create one with create_worker_token"
            )
        self.token = token


class NodeAPIView(WorkerAPIView):
    """A view of one node, for the process that is it: ``node_id`` in the route, ``incarnation`` in the message."""

    node: Node

    def authenticate(self, request: Request, **place: str) -> None:
        """Token and node in one statement, because most calls are these; a second one only to say what is wrong."""
        node = find_node(token=bearer_token(request), node_id=place["node_id"])
        if node is None:
            super().authenticate(request, **place)
            raise HoneError("not_found", "No such node; say hello first")
        self.node, self.token = node, node.token

    def check_incarnation(self, incarnation: str) -> None:
        """Refuse a process that another one has replaced."""
        if self.node.incarnation != incarnation:
            raise HoneError("node_replaced", f"Another process has taken the name '{self.node.name}'")


class LeaseAPIView(WorkerAPIView):
    """A view of one lease, ``lease_id`` in the route, for its holder, which proves itself with the lease's token."""

    lease: Lease
    """Held when the request came; what changes anything asks again, under the lease's lock."""

    def authenticate(self, request: Request, **place: str) -> None:
        """Worker token and lease in one statement; ``lease_lost`` when the holder holds it no more."""
        claim = _claim_of(request)
        lease = None
        if claim is not None:
            lease = find_held_lease(token=bearer_token(request), lease_id=UUID(claim["lease"]), epoch=claim["epoch"])
        if lease is None or claim is None or lease.node is None:
            super().authenticate(request, **place)
            if claim is None:
                raise HoneError("lease_lost", f"Send the lease's token in the header {protocol.LEASE_HEADER}")
            raise HoneError("lease_lost", "The lease has ended or moved on; drop this work")
        self.lease, self.token = lease, lease.node.token
        if lease.wire_id != place["lease_id"] or claim["worker_token"] != str(self.token.id):
            raise HoneError("lease_lost", "The lease token belongs to another lease or another node")
        bind_contextvars(lease=lease.wire_id)


class NodeListView(WorkerAPIView):
    """A node says hello."""

    def post(self, request: Request) -> Response:
        """Register."""
        data: Any = request.data
        check_protocol(data.get("protocol"))
        hello = message(protocol.NodeHello, request)
        node = register_node(token=self.token, hello=hello)
        welcome = protocol.NodeWelcome(
            node_id=str(node.id),
            heartbeat_seconds=settings.NODE_HEARTBEAT_SECONDS,
            lease_seconds=settings.LEASE_SECONDS,
            poll_seconds=settings.NODE_POLL_SECONDS,
        )
        return Response(protocol.encode(welcome))


class NodeView(WorkerAPIView):
    """What is known of a node, by its name."""

    def get(self, request: Request, name: str) -> Response:
        """Name, whether it drains, and its models' states."""
        node = Node.objects.filter(name=name).first()
        if node is None:
            raise HoneError("not_found", f"No node is called '{name}'")
        state = "draining" if node.is_draining else "active"
        return Response({"name": node.name, "state": state, "models": node.model_reports})


class NodeHeartbeatView(NodeAPIView):
    """A node is alive, and with it the leases that it holds."""

    def post(self, request: Request, node_id: str) -> Response:
        """Keep the report, renew the leases, answer with orders."""
        report = message(protocol.NodeReport, request)
        self.check_incarnation(report.incarnation)
        return Response(protocol.encode(take_report(node=self.node, report=report)))


class NodeLeasesView(NodeAPIView):
    """A node asks for work."""

    def post(self, request: Request, node_id: str) -> Response:
        """Grant one lease, or 204."""
        wanted = message(protocol.LeaseRequest, request)
        self.check_incarnation(wanted.incarnation)
        offered = _offered_models(self.node, wanted.kinds)
        models = [model for model in wanted.models if model in offered]
        others = [from_wire(Organization.ID_PREFIX, wire_id) for wire_id in wanted.except_organizations]
        lease = None
        if models and not self.node.is_draining:
            lease = claim_lease(
                kinds=[*wanted.kinds],
                models=models,
                node_id=self.node.id,
                without=[organization_id for organization_id in others if organization_id],
            )
        if lease is None:
            return Response(status=204)
        with tenant_scope(lease.organization_id):
            handler = handler_of(lease)
            handler.claimed(lease)
            work = handler.describe(lease)
        grant = protocol.LeaseGrant(
            id=lease.wire_id,
            token=_lease_token(lease, self.token),
            epoch=lease.epoch,
            kind=protocol.LeaseKind(lease.kind),
            model=lease.model,
            organization_id=lease.organization.wire_id,
            weight=lease.organization.weight,
            lease_seconds=settings.LEASE_SECONDS,
            estimated_tokens=lease.estimated_tokens,
            deadline_at=lease.deadline_at.timestamp(),
            work=work,
        )
        return Response(protocol.encode(grant))


class NodeAdaptersView(NodeAPIView):
    """A node asks about the adapters that it keeps."""

    def post(self, request: Request, node_id: str) -> Response:
        """Name those that have been deleted."""
        inventory = message(protocol.AdapterInventory, request)
        self.check_incarnation(inventory.incarnation)
        if len(inventory.addresses) > MAX_ADAPTERS:
            raise HoneError("invalid_request", f"Ask about at most {MAX_ADAPTERS} adapters at once")
        live = live_addresses(addresses=inventory.addresses)
        orders = protocol.AdapterOrders(drop=[address for address in inventory.addresses if address not in live])
        return Response(protocol.encode(orders))


class LeaseAdapterView(LeaseAPIView):
    """The adapter that a lease's work needs."""

    def get(self, request: Request, lease_id: str, name: str) -> HttpResponseBase:
        """The bytes of one of its files."""
        with tenant_scope(self.lease.organization_id):
            model = handler_of(self.lease).adapter(self.lease)
        file = model.files.get(name) if model else None
        if file is None:
            raise HoneError("not_found", f"The work has no adapter with a file '{name}'")
        return StreamingHttpResponse(
            BlobRange(file["storage_key"], 0, file["bytes"]),
            content_type="application/octet-stream",
            headers={"Content-Length": str(file["bytes"])},
        )


class LeaseCompleteView(LeaseAPIView):
    """The holder is done."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Complete, if nothing is missing."""
        complete_lease(lease=self.lease)
        return Response({})


class LeaseFailView(LeaseAPIView):
    """The holder gives the lease back."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Release."""
        failure = message(protocol.LeaseFailure, request)
        release_lease(
            lease=self.lease,
            code=failure.code,
            message=failure.message,
            retryable=failure.retryable,
        )
        return Response({})


def message(kind: type[Message], request: Request) -> Message:
    """The request's body as a message of the protocol."""
    if rb"\u0000" in orjson.dumps(request.data).replace(rb"\\", b""):
        raise HoneError("invalid_request", "A message holds no NUL: PostgreSQL cannot store it")
    try:
        return protocol.decode(kind, request.data)
    except protocol.MessageError as error:
        raise HoneError("invalid_request", str(error)) from error


def _offered_models(node: Node, kinds: list[protocol.LeaseKind]) -> set[str]:
    """Models for which the node can do work of these kinds: a training needs no engine, everything else does."""
    if kinds == [protocol.LeaseKind.TRAINING]:
        return {report["name"] for report in node.model_reports if report.get("trains")}
    return {report["name"] for report in node.model_reports if report["state"] == protocol.ModelState.READY}


def _lease_token(lease: Lease, token: WorkerToken) -> str:
    """Proof of one claim; good only together with the worker token that made it."""
    claim = {"lease": str(lease.id), "epoch": lease.epoch, "worker_token": str(token.id)}
    return signing.dumps(claim, salt=_SALT)


def _claim_of(request: Request) -> dict[str, Any] | None:
    """What the request's lease token says, if it is one of ours."""
    try:
        claim: dict[str, Any] = signing.loads(request.headers.get(protocol.LEASE_HEADER, ""), salt=_SALT)
    except signing.BadSignature:
        return None
    return claim
