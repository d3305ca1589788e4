"""The life of a lease and of a node. All times are PostgreSQL's."""

from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from common.database import SYSTEM
from common.errors import HoneError
from fleet.doorbell import ring_after_commit
from fleet.handlers import handler_of
from fleet.models import Lease, Node, WorkerToken
from inference_workers.protocol import PROTOCOL_VERSION, NodeHello, NodeReport
from tenants.keys import NewSecret, new_secret
from tenants.scope import tenant_scope

logger = structlog.get_logger(__name__)

WORKER_PREFIX = "hone_wk_"


def create_worker_token(*, name: str) -> NewSecret:
    """A token for a node; the secret exists only in the answer."""
    secret = new_secret(WORKER_PREFIX)
    WorkerToken.objects.using(SYSTEM).create(name=name, public_id=secret.public_id, digest=secret.digest)
    return secret


def register_node(*, token: WorkerToken, hello: NodeHello) -> Node:
    """A node says hello. A new process under a known name takes over from the last one, whose leases end now."""
    if hello.protocol != PROTOCOL_VERSION:
        raise HoneError(
            "protocol_unsupported",
            f"The control plane speaks protocol {PROTOCOL_VERSION}, the node '{hello.name}' {hello.protocol}: "
            "install the version of inference_workers that belongs to this control plane",
        )
    with transaction.atomic(using=SYSTEM):
        node, created = (
            Node.objects.using(SYSTEM)
            .select_for_update()
            .get_or_create(name=hello.name, defaults={"token": token, "incarnation": "", "protocol": hello.protocol})
        )
        replaced = not created and node.incarnation != hello.incarnation
        node.token, node.incarnation, node.protocol = token, hello.incarnation, hello.protocol
        node.software, node.hardware = hello.software, hello.hardware
        node.model_reports = [
            {"name": name, "state": "starting", "in_flight": 0, "message": ""} for name in hello.models
        ]
        node.last_seen_at = timezone.now()
        node.save(using=SYSTEM)
    if replaced:
        for lease in Lease.all_tenants.filter(state=Lease.State.LEASED, node=node):
            release_lease(lease=lease, code="node_restarted", message=f"Node {node.name} was started anew")
    return node


def report_node(*, node: Node, report: NodeReport) -> Node:
    """Keep what a node says of its models."""
    node.model_reports = [asdict(model) for model in report.models]
    node.last_seen_at = timezone.now()
    node.save(using=SYSTEM, update_fields=["model_reports", "last_seen_at"])
    return node


def set_draining(*, name: str, is_draining: bool) -> None:
    """Tell a node to finish what it holds and take nothing new, or to work again."""
    if not Node.objects.using(SYSTEM).filter(name=name).update(is_draining=is_draining):
        raise HoneError("not_found", f"No node is called '{name}'")


def create_lease(
    *, organization_id: UUID, kind: str, model: str, estimated_tokens: int, deadline_at: datetime
) -> Lease:
    """Queue a piece of work inside the scope that creates it, and ring once that has been committed."""
    ring_after_commit(model=model)
    return Lease.objects.create(
        organization_id=organization_id,
        kind=kind,
        model=model,
        estimated_tokens=estimated_tokens,
        deadline_at=deadline_at,
    )


def lock_lease(*, lease_id: UUID, epoch: int) -> Lease:
    """The lease, locked until the scope ends, if this epoch still holds it; ``lease_lost`` otherwise."""
    lease = Lease.objects.select_for_update().filter(id=lease_id, epoch=epoch, state=Lease.State.LEASED).first()
    if lease is None:
        raise HoneError("lease_lost", "The lease has ended or moved on; drop this work")
    return lease


def renew_lease(*, lease: Lease) -> Lease:
    """Hold the lease for another while; returns it as it is now, for its wishes (``cancel_requested_at``)."""
    with tenant_scope(lease.organization_id):
        renewed = Lease.objects.filter(id=lease.id, epoch=lease.epoch, state=Lease.State.LEASED).update(
            leased_until=Now() + timedelta(seconds=settings.LEASE_SECONDS)
        )
        if not renewed:
            raise HoneError("lease_lost", "The lease has ended or moved on; drop this work")
        return Lease.objects.get(id=lease.id)


def note_progress(*, lease: Lease) -> None:
    """The holder has brought something that lasts. Call with the lease locked."""
    lease.has_progressed = True
    lease.attempts = 0
    lease.save(update_fields=["has_progressed", "attempts"])


def complete_lease(*, lease: Lease) -> None:
    """The work is done."""
    with tenant_scope(lease.organization_id):
        locked = lock_lease(lease_id=lease.id, epoch=lease.epoch)
        handler_of(locked).completed(locked)
        _end(locked, Lease.State.DONE)


def release_lease(*, lease: Lease, code: str, message: str, retryable: bool = True) -> None:
    """A holder gave up or was lost. The work waits for another, or fails for good after too many attempts."""
    with tenant_scope(lease.organization_id):
        held = Lease.objects.select_for_update().filter(id=lease.id, epoch=lease.epoch, state=Lease.State.LEASED)
        locked = held.first()
        if locked is None:
            return  # somebody was faster
        locked.failure = {"code": code, "message": message}
        if locked.cancel_requested_at is not None:
            _end(locked, Lease.State.CANCELLED)
            handler_of(locked).stopped(locked)
            return
        if not locked.has_progressed:
            locked.attempts += 1
        if not retryable or locked.attempts >= settings.LEASE_MAX_ATTEMPTS:
            _end(locked, Lease.State.FAILED)
            handler_of(locked).exhausted(locked, code=code, message=message)
            logger.warning("work failed for good", lease=locked.wire_id, kind=locked.kind, code=code)
            return
        locked.not_before = timezone.now() + timedelta(seconds=min(60, 2**locked.attempts - 1))
        _end(locked, Lease.State.WAITING)
        ring_after_commit(model=locked.model)
        logger.info("lease released", lease=locked.wire_id, kind=locked.kind, code=code, attempts=locked.attempts)


def request_cancel(*, lease_ids: list[UUID]) -> None:
    """End these leases: at once where nobody holds them, otherwise the holder is told at its next heartbeat."""
    Lease.objects.filter(id__in=lease_ids, state=Lease.State.WAITING).update(
        state=Lease.State.CANCELLED, epoch=F("epoch") + 1
    )
    Lease.objects.filter(id__in=lease_ids, state=Lease.State.LEASED, cancel_requested_at=None).update(
        cancel_requested_at=Now()
    )


def revoke_leases(*, lease_ids: list[UUID]) -> None:
    """End these leases now: their holders have had their time, every later call of theirs is refused."""
    Lease.objects.filter(id__in=lease_ids, state__in=[Lease.State.WAITING, Lease.State.LEASED]).update(
        state=Lease.State.CANCELLED, epoch=F("epoch") + 1, leased_until=None, node=None
    )


def sweep_leases(*, limit: int = 500) -> int:
    """Free the leases whose holders have gone silent; returns how many."""
    # Silence is found across tenants; each lease is then freed in its own tenant's scope.
    silent = list(Lease.all_tenants.filter(state=Lease.State.LEASED, leased_until__lt=Now())[:limit])
    for lease in silent:
        release_lease(lease=lease, code="holder_lost", message="The holder of the work went silent")
    return len(silent)


def _end(lease: Lease, state: Lease.State) -> None:
    lease.state = state
    lease.node = None
    lease.leased_until = None
    lease.save(update_fields=["state", "node", "leased_until", "not_before", "attempts", "failure"])
