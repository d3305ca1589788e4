"""The life of a lease and of a node. All times are PostgreSQL's."""

from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from common.database import SYSTEM
from common.errors import HoneError
from fleet.doorbell import ring_after_commit
from fleet.handlers import handler_of
from fleet.models import OPEN_STATES, Lease, Node, WorkerToken
from inference_workers.protocol import PROTOCOL_VERSION, ModelReport, ModelState, NodeHello
from tenants.keys import NewSecret, new_secret
from tenants.scope import tenant_scope

logger = structlog.get_logger(__name__)

WORKER_PREFIX = "hone_wk_"
MAX_FAILURE_CODE = 64
MAX_FAILURE_MESSAGE = 500
MAX_BACK_OFF_SECONDS = 60


def create_worker_token(*, name: str) -> NewSecret:
    """A token for a node; the secret exists only in the answer."""
    secret = new_secret(WORKER_PREFIX)
    WorkerToken.objects.using(SYSTEM).create(name=name, public_id=secret.public_id, digest=secret.digest)
    return secret


def check_protocol(version: object) -> None:
    """Refuse a node of another protocol version; asked before its hello is judged by today's rules."""
    if version != PROTOCOL_VERSION:
        raise HoneError(
            "protocol_unsupported",
            f"The control plane speaks protocol {PROTOCOL_VERSION}, the node {str(version)[:20]}: "
            "install the version of inference_workers that belongs to this control plane",
        )


def register_node(*, token: WorkerToken, hello: NodeHello) -> Node:
    """A node says hello. A new process under a known name takes over from the last one, whose leases end now."""
    for field, value, limit in (("name", hello.name, 200), ("incarnation", hello.incarnation, 64)):
        if not 0 < len(value) <= limit:
            raise HoneError("invalid_value", f"NodeHello.{field} must have 1 to {limit} characters", param=field)
    with transaction.atomic(using=SYSTEM):
        node, created = (
            Node.objects.using(SYSTEM)
            .select_for_update()
            .get_or_create(name=hello.name, defaults={"token": token, "incarnation": "", "protocol": hello.protocol})
        )
        replaced = not created and node.incarnation != hello.incarnation
        node.token, node.incarnation, node.protocol = token, hello.incarnation, hello.protocol
        node.software, node.hardware = hello.software, hello.hardware
        node.model_reports = [asdict(ModelReport(name=name, state=ModelState.STARTING)) for name in hello.models]
        node.last_seen_at = timezone.now()
        node.save(using=SYSTEM)
    if replaced:
        # A node works for many tenants; each lease is then freed in its own tenant's scope.
        for lease in Lease.all_tenants.filter(state=Lease.State.LEASED, node=node):
            release_lease(lease=lease, code="node_restarted", message=f"Node {node.name} was started anew")
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


def renew_lease(*, lease: Lease, seconds: float | None = None) -> Lease:
    """Hold the lease for another while; returns it as it is now, for its wishes (``cancel_requested_at``)."""
    hold = timedelta(seconds=settings.LEASE_SECONDS if seconds is None else seconds)
    with tenant_scope(lease.organization_id):
        held = Lease.objects.filter(id=lease.id, epoch=lease.epoch, state=Lease.State.LEASED)
        if not held.update(leased_until=Now() + hold):
            raise HoneError("lease_lost", "The lease has ended or moved on; drop this work")
        return Lease.objects.get(id=lease.id)


def lock_open_leases(*, lease_ids: list[UUID]) -> QuerySet[Lease]:
    """Those of the leases that have not ended, locked in the order of their ids: all who lock several do."""
    leases = Lease.objects.filter(id__in=lease_ids, state__in=OPEN_STATES)
    locked = list(leases.select_for_update().order_by("id").values_list("id", flat=True))
    return Lease.objects.filter(id__in=locked)


def note_progress(*, lease: Lease) -> None:
    """The holder has brought something that lasts. Call with the lease locked."""
    lease.has_progressed = True
    lease.attempts = 0
    lease.save(update_fields=["has_progressed", "attempts"])


def complete_lease(*, lease: Lease) -> None:
    """The work is done."""
    with tenant_scope(lease.organization_id):
        locked = lock_lease(lease_id=lease.id, epoch=lease.epoch)
        handler = handler_of(locked)
        handler.completed(locked)
        _end(locked, Lease.State.DONE)
        if locked.cancel_requested_at is not None:
            handler.stopped(locked)


def release_lease(*, lease: Lease, code: str, message: str, retryable: bool = True) -> None:
    """A holder gives up or was lost. The work waits for another, or fails for good after too many attempts."""
    with tenant_scope(lease.organization_id):
        held = Lease.objects.select_for_update().filter(id=lease.id, epoch=lease.epoch, state=Lease.State.LEASED)
        locked = held.first()
        if locked is not None:  # else somebody was faster
            _release(locked, code, message, retryable=retryable)


def request_cancel(*, lease_ids: list[UUID]) -> None:
    """End these leases: at once where nobody holds them, otherwise the holder is told at its next heartbeat."""
    leases = lock_open_leases(lease_ids=lease_ids)
    leases.exclude(state=Lease.State.LEASED).update(state=Lease.State.CANCELLED, epoch=F("epoch") + 1)
    leases.filter(state=Lease.State.LEASED, cancel_requested_at=None).update(cancel_requested_at=Now())


def pause_leases(*, lease_ids: list[UUID]) -> None:
    """Hand these leases out no more; a holder is told at its next heartbeat and gives its lease back."""
    leases = lock_open_leases(lease_ids=lease_ids)
    leases.filter(state=Lease.State.WAITING).update(state=Lease.State.PAUSED)
    leases.filter(state=Lease.State.LEASED, pause_requested_at=None).update(pause_requested_at=Now())


def resume_leases(*, lease_ids: list[UUID]) -> None:
    """Hand these leases out again; a holder that has not let go yet goes on."""
    leases = lock_open_leases(lease_ids=lease_ids)
    leases.filter(state=Lease.State.LEASED).update(pause_requested_at=None)
    paused = leases.filter(state=Lease.State.PAUSED)
    models = list(paused.order_by("model").values_list("model", flat=True).distinct())
    paused.update(state=Lease.State.WAITING)
    for model in models:
        ring_after_commit(model=model)


def revoke_leases(*, lease_ids: list[UUID]) -> None:
    """End these leases now: their holders have had their time, every later call of theirs is refused."""
    lock_open_leases(lease_ids=lease_ids).update(
        state=Lease.State.CANCELLED, epoch=F("epoch") + 1, leased_until=None, node=None
    )


def sweep_leases(*, limit: int = 500) -> None:
    """Free the leases whose holders have gone silent."""
    # Silence is found across tenants; each lease is then freed in its own tenant's scope.
    silent = Lease.all_tenants.filter(state=Lease.State.LEASED, leased_until__lt=Now()).order_by("leased_until")
    for lease in silent[:limit]:
        try:
            _free_silent(lease)
        except Exception:  # one lease that cannot be freed must not keep the others waiting for ever
            logger.exception("lease not freed", lease=lease.wire_id, kind=lease.kind)


def _free_silent(lease: Lease) -> None:
    with tenant_scope(lease.organization_id):
        # One that is locked is being worked on at this moment, and one that was renewed meanwhile is not silent.
        silent = Lease.objects.select_for_update(skip_locked=True).filter(
            id=lease.id, epoch=lease.epoch, state=Lease.State.LEASED, leased_until__lt=Now()
        )
        locked = silent.first()
        if locked is not None:
            _release(locked, "holder_lost", "The holder of the work went silent")


def _release(lease: Lease, code: str, message: str, *, retryable: bool = True) -> None:
    handler = handler_of(lease)
    code, message = code[:MAX_FAILURE_CODE], message[:MAX_FAILURE_MESSAGE]
    lease.failure = {"code": code, "message": message}
    if lease.cancel_requested_at is not None:
        _end(lease, Lease.State.CANCELLED)
        handler.stopped(lease)
        return
    if lease.pause_requested_at is not None:
        lease.pause_requested_at = None
        _end(lease, Lease.State.PAUSED)
        handler.released(lease)
        return
    if not lease.has_progressed and code != "paused":  # resumed before the holder had let go: no failure
        lease.attempts += 1
    if not retryable or lease.attempts >= settings.LEASE_MAX_ATTEMPTS:
        _end(lease, Lease.State.FAILED)
        handler.exhausted(lease, code=code, message=message)
        logger.warning("work failed for good", lease=lease.wire_id, kind=lease.kind, code=code)
        return
    lease.not_before = Now() + timedelta(seconds=min(MAX_BACK_OFF_SECONDS, 2**lease.attempts - 1))
    _end(lease, Lease.State.WAITING)
    handler.released(lease)
    ring_after_commit(model=lease.model)
    logger.info("lease released", lease=lease.wire_id, kind=lease.kind, code=code, attempts=lease.attempts)


def _end(lease: Lease, state: Lease.State) -> None:
    lease.state = state
    lease.node = None
    lease.leased_until = None
    lease.save(
        update_fields=["state", "node", "leased_until", "not_before", "attempts", "failure", "pause_requested_at"]
    )
