"""``/internal/v1``: what nodes call. The messages are :mod:`inference_workers.protocol`."""

from typing import Any, TypeVar
from uuid import UUID

import orjson
from django.conf import settings
from django.core import signing
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from common.errors import HoneError
from fleet.claims import claim_lease
from fleet.handlers import handler_of
from fleet.models import Lease, Node, WorkerToken
from fleet.selectors import find_worker_token, get_node
from fleet.services import (
    check_protocol,
    complete_lease,
    lock_lease,
    register_node,
    release_lease,
    renew_lease,
    report_node,
)
from inference_workers import protocol
from tenants.access import bearer_token
from tenants.scope import tenant_scope

Message = TypeVar("Message")
_SALT = "fleet.lease"


class WorkerAPIView(APIView):
    """A view for nodes: a worker token, and for calls on a lease the lease's own token."""

    token: WorkerToken

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Authenticate before the handler."""
        super().initial(request, *args, **kwargs)
        token = find_worker_token(bearer_token(request))
        if token is None:
            raise HoneError(
                "invalid_worker_token", "Unknown or revoked worker token; create one with create_worker_token"
            )
        self.token = token

    def held_lease(self, request: Request, lease_id: str) -> Lease:
        """The lease that the request's lease token holds; ``lease_lost`` when it holds it no more."""
        try:
            claim = signing.loads(request.headers.get(protocol.LEASE_HEADER, ""), salt=_SALT)
        except signing.BadSignature as error:
            raise HoneError("lease_lost", f"Send the lease's token in the header {protocol.LEASE_HEADER}") from error
        lease = Lease(id=UUID(claim["lease"]), organization_id=UUID(claim["organization"]), epoch=claim["epoch"])
        if lease.wire_id != lease_id or claim["worker_token"] != str(self.token.id):
            raise HoneError("lease_lost", "The lease token belongs to another lease or another node")
        bind_contextvars(lease=lease_id)
        with tenant_scope(lease.organization_id):
            return lock_lease(lease_id=lease.id, epoch=lease.epoch)

    def lease_token(self, lease: Lease) -> str:
        """Proof of one claim; good only together with the worker token that made it."""
        claim = {
            "lease": str(lease.id),
            "organization": str(lease.organization_id),
            "epoch": lease.epoch,
            "worker_token": str(self.token.id),
        }
        return signing.dumps(claim, salt=_SALT)


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


class NodeHeartbeatView(WorkerAPIView):
    """A node reports."""

    def post(self, request: Request, node_id: str) -> Response:
        """Keep the report, answer with orders."""
        report = message(protocol.NodeReport, request)
        node = current_node(self.token, node_id, report.incarnation)
        report_node(node=node, report=report)
        return Response(protocol.encode(protocol.NodeOrders(drain=node.is_draining)))


class LeaseListView(WorkerAPIView):
    """A node asks for work."""

    def post(self, request: Request) -> Response:
        """Grant one lease, or 204."""
        wanted = message(protocol.LeaseRequest, request)
        node = current_node(self.token, wanted.node_id, wanted.incarnation)
        lease = None
        if not node.is_draining:
            lease = claim_lease(kinds=[*wanted.kinds], models=wanted.models, node_id=node.id)
        if lease is None:
            return Response(status=204)
        with tenant_scope(lease.organization_id):
            work = handler_of(lease).describe(lease)
        grant = protocol.LeaseGrant(
            id=lease.wire_id,
            token=self.lease_token(lease),
            epoch=lease.epoch,
            kind=protocol.LeaseKind(lease.kind),
            model=lease.model,
            lease_seconds=settings.LEASE_SECONDS,
            estimated_tokens=lease.estimated_tokens,
            deadline_at=lease.deadline_at.timestamp(),
            work=work,
        )
        return Response(protocol.encode(grant))


class LeaseHeartbeatView(WorkerAPIView):
    """The holder of a lease is alive."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Renew, and pass on what is wished of the holder."""
        message(protocol.LeaseProgress, request)
        lease = renew_lease(lease=self.held_lease(request, lease_id))
        cancel = lease.cancel_requested_at is not None
        action = protocol.LeaseAction.CANCEL if cancel else protocol.LeaseAction.CONTINUE
        return Response(protocol.encode(protocol.LeaseOrders(action=action)))


class LeaseCompleteView(WorkerAPIView):
    """The holder is done."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Complete, if nothing is missing."""
        complete_lease(lease=self.held_lease(request, lease_id))
        return Response({})


class LeaseFailView(WorkerAPIView):
    """The holder gives the lease back."""

    def post(self, request: Request, lease_id: str) -> Response:
        """Release."""
        failure = message(protocol.LeaseFailure, request)
        release_lease(
            lease=self.held_lease(request, lease_id),
            code=failure.code,
            message=failure.message,
            retryable=failure.retryable,
        )
        return Response({})


def current_node(token: WorkerToken, node_id: str, incarnation: str) -> Node:
    """The node of a call, if the calling process still is that node."""
    node = get_node(token=token, node_id=node_id)
    if node.incarnation != incarnation:
        raise HoneError("node_replaced", f"Another process has taken the name '{node.name}'")
    return node


def message(kind: type[Message], request: Request) -> Message:
    """The request's body as a message of the protocol."""
    if rb"\u0000" in orjson.dumps(request.data).replace(rb"\\", b""):
        raise HoneError("invalid_request", "A message holds no NUL: PostgreSQL cannot store it")
    try:
        return protocol.decode(kind, request.data)
    except protocol.MessageError as error:
        raise HoneError("invalid_request", str(error)) from error
