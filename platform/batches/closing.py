"""The ends of a batch: cancel, expire, fail, and what follows once no row is pending any more.

Locks are always taken in the order lease, shard, batch, hold; what must begin with the batch (cancel, expiry) marks it
in a transaction of its own and touches the leases in the next, which the periodic task repeats if need be.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from batches.funding import release_batch, release_shard
from batches.models import TERMINAL, Batch, Row, Shard
from batches.selectors import get_controlled_batch, lock_batch
from catalog.models import BaseModel
from common.errors import CODES, HoneError, not_found
from common.ids import from_wire
from common.storage import IncomingBlob, discard_blobs
from common.tasks import attempt
from files.models import StoredFile
from files.services import NewFile, add_file, release_file
from fleet.heartbeat import WorkCancelledError
from fleet.models import Lease
from fleet.services import complete_lease, create_lease, lock_lease, request_cancel, revoke_leases
from notifications.services import emit_event
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

VALIDATION_KIND = "batch_validation"
ASSEMBLY_KIND = "batch_assembly"
CLEARING_KIND = "batch_clearing"
_RUNNING = (Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS)
_UNHELD = (Lease.State.WAITING, Lease.State.PAUSED)


def cancel_batch(*, project: Project, wire_id: str, actor: str) -> Batch:
    """Stop a batch: what has finished is kept and charged, the rest does not run. Repeating it is harmless."""
    with tenant_scope(project.organization_id):
        batch = lock_batch(project=project, wire_id=wire_id)
        if batch.status in (Batch.Status.CANCELLING, Batch.Status.CANCELLED):
            return batch
        if batch.closing_as:
            raise HoneError("conflict", "The batch's completion window has closed; it ends as expired", param="id")
        if batch.status not in _RUNNING:
            raise HoneError("conflict", f"A batch that is {batch.status} cannot be cancelled", param="id")
        batch.status = Batch.Status.CANCELLING
        batch.closing_as = Batch.Status.CANCELLED
        batch.cancelling_at = timezone.now()
        batch.save(update_fields=["status", "closing_as", "cancelling_at"])
        record(actor=actor, action="batch.cancelled", subject=batch.wire_id, organization_id=batch.organization_id)
    close_batch(batch=batch)
    return batch


def expire_batch(*, batch: Batch) -> None:
    """The completion window has closed."""
    with tenant_scope(batch.organization_id):
        running = Batch.objects.filter(id=batch.id, closing_as="", status__in=_RUNNING)
        if not running.update(closing_as=Batch.Status.EXPIRED):
            return  # it has been cancelled, or has ended, meanwhile
    close_batch(batch=batch)


def close_batch(*, batch: Batch) -> None:
    """Bring a batch that is marked (``closing_as``) to its end as far as that is possible now; repeated until it is.

    Holders are asked first, so that they can bring what they have finished; after the grace they are fenced off.
    """
    with tenant_scope(batch.organization_id):
        if not _closing(batch).exists():
            return
        request_cancel(lease_ids=_work_leases(batch))
    with tenant_scope(batch.organization_id):
        leases = _work_leases(batch)
        grace = timedelta(seconds=settings.BATCH_CANCEL_GRACE_SECONDS)
        if Lease.objects.filter(
            id__in=leases, state=Lease.State.LEASED, cancel_requested_at__gt=Now() - grace
        ).exists():
            return
        revoke_leases(lease_ids=leases)
        locked = _closing(batch).select_for_update().first()
        if locked is None:
            return
        state = Row.State(locked.closing_as)
        count = Row.objects.filter(batch_id=locked.id, state=Row.State.PENDING).update(state=state)
        locked.pending -= count
        setattr(locked, state, count)
        locked.save(update_fields=["pending", state])
        Shard.objects.filter(batch_id=locked.id, pending__gt=0).update(pending=0)
        start_assembly(batch=locked)


def close_after_commit(*, batch: Batch) -> None:
    """A lease of this batch has ended at our wish. Its lock must go first: other leases are locked next."""
    transaction.on_commit(lambda: close_batch(batch=batch), robust=True)


def start_assembly(*, batch: Batch) -> None:
    """No row is pending any more: give back what is held and queue the writing of the output files.

    Call with the batch locked.
    """
    release_batch(batch=batch)
    if batch.status != Batch.Status.CANCELLING:
        batch.status = Batch.Status.FINALIZING
    batch.finalizing_at = timezone.now()
    batch.save(update_fields=["status", "finalizing_at"])
    queue_control_work(batch, ASSEMBLY_KIND)


def lock_controlled_batch(*, lease: Lease) -> Batch:
    """The batch whose control work ``lease`` is, both locked until the scope ends; ``lease_lost`` otherwise."""
    lock_lease(lease_id=lease.id, epoch=lease.epoch)
    return get_controlled_batch(lease=lease, lock=True)


def start_clearing(*, batch: Batch) -> None:
    """The batch has its files: queue the deletion of what it was assembled from. Call with the batch locked."""
    queue_control_work(batch, CLEARING_KIND)


def close_failed(*, lease: Lease, errors: list[dict[str, Any]], error_blob: IncomingBlob | None = None) -> None:
    """End a batch that did not pass validation: nothing ran, nothing is charged."""
    key = error_blob.keep_new(lease.organization_id, "files") if error_blob else ""
    try:
        with tenant_scope(lease.organization_id):
            batch = lock_controlled_batch(lease=lease)
            if batch.closing_as:
                raise WorkCancelledError
            if error_blob is not None:
                batch.error_file = add_result_file(batch=batch, blob=error_blob, key=key, name="errors")
            _fail(batch, errors)
            complete_lease(lease=lease)
    except (HoneError, WorkCancelledError):
        if key:
            discard_blobs(key)  # refused, so that certainly nothing refers to it
        raise


def fail_unrunnable(*, lease: Lease, code: str, message: str) -> None:
    """Validation or assembly has failed for good. Call inside the scope, with the lease locked."""
    batch = Batch.objects.select_for_update().filter(control_lease_id=lease.id).first()
    if batch is None or batch.is_terminal:
        return
    if lease.kind == VALIDATION_KIND and batch.closing_as:
        return  # close_batch ends it
    kept = "; the results are kept, and the operator can have them assembled again" if batch.total else ""
    complaint = {
        "code": code if code in CODES else "batch_failed",
        "message": f"{message} (given up after several tries{kept})",
        "param": None,
        "line": None,
    }
    _fail(batch, [complaint, *batch.errors])


def fail_rows(*, shard: Shard, code: str, message: str) -> None:
    """The pending rows of a shard will not run. Call inside the scope with its lease, and then the shard, locked."""
    batch = Batch.objects.select_for_update().get(id=shard.batch_id)
    error = {"code": code, "message": message, "param": None}
    count = Row.objects.filter(shard_id=shard.id, state=Row.State.PENDING).update(state=Row.State.FAILED, error=error)
    batch.pending -= count
    batch.failed += count
    batch.save(update_fields=["pending", "failed"])
    shard.pending = 0
    shard.save(update_fields=["pending"])
    if shard.is_funded:
        release_shard(batch=batch, shard=shard)
    if count and batch.pending == 0 and batch.status == Batch.Status.IN_PROGRESS and not batch.closing_as:
        start_assembly(batch=batch)


def fail_retired(*, shard: Shard) -> None:
    """A shard waits for a model that has left the catalogue: its rows fail with that reason."""
    with tenant_scope(shard.organization_id):
        leases = Lease.objects.select_for_update().filter(id=shard.lease_id, state__in=_UNHELD)
        lease = leases.first()
        if lease is None:
            return
        revoke_leases(lease_ids=[lease.id])
        locked = Shard.objects.select_for_update().get(id=shard.id)
        fail_rows(shard=locked, code="model_not_found", message=f"The model '{shard.model}' has been withdrawn")


def reassemble_batch(*, wire_id: str) -> Batch:
    """Queue the assembly again of a batch that is held, or whose files could not be written: an operator's wish."""
    # The operator knows batches, not tenants.
    batch_id = from_wire(Batch.ID_PREFIX, wire_id)
    found = Batch.all_tenants.filter(id=batch_id).first() if batch_id else None
    if found is None:
        raise not_found("batch", wire_id)
    with tenant_scope(found.organization_id):
        batch = Batch.objects.select_for_update().get(id=found.id)
        has_no_files = batch.status == Batch.Status.FAILED and batch.finalizing_at is not None
        if not batch.held_reason and not has_no_files:
            raise HoneError("conflict", f"{wire_id} is {batch.status}; only a batch without its files is reassembled")
        is_cancelled = batch.closing_as == Batch.Status.CANCELLED
        batch.status = Batch.Status.CANCELLING if is_cancelled else Batch.Status.FINALIZING
        batch.held_reason = ""
        batch.failed_at = None
        batch.errors = [error for error in batch.errors if error["line"] is not None]
        batch.save(update_fields=["status", "held_reason", "failed_at", "errors"])
        start_assembly(batch=batch)
        record(actor=SYSTEM_ACTOR, action="batch.reassembled", subject=wire_id, organization_id=batch.organization_id)
    return batch


def close_due_batches(*, limit: int = 200) -> None:
    """Expire what is over, finish what is being closed, fail what waits for a withdrawn model."""
    # All three are found across tenants; each batch is then worked on in its own tenant's scope.
    unfinished = Batch.all_tenants.filter(finalizing_at=None).exclude(status__in=TERMINAL).order_by("expires_at")
    for batch in unfinished.filter(closing_as="", expires_at__lte=Now())[:limit]:
        attempt(expire_batch, batch=batch)
    for batch in unfinished.exclude(closing_as="")[:limit]:
        attempt(close_batch, batch=batch)
    retired = list(BaseModel.objects.filter(is_active=False).values_list("name", flat=True))
    waiting = Shard.all_tenants.filter(lease__state__in=_UNHELD, lease__model__in=retired)
    for shard in waiting[:limit]:
        attempt(fail_retired, shard=shard)


def add_result_file(*, batch: Batch, blob: IncomingBlob, key: str, name: str) -> StoredFile:
    """The row of an output or error file whose bytes stand at ``key``. Call inside the scope."""
    lifetime = batch.output_lifetime_seconds
    return add_file(
        project=batch.project,
        blob=blob,
        key=key,
        new=NewFile(
            filename=f"{batch.wire_id}_{name}.jsonl",
            purpose=StoredFile.Purpose.BATCH_OUTPUT,
            lifetime=timedelta(seconds=lifetime) if lifetime else None,
        ),
        actor=SYSTEM_ACTOR,
        created_by=batch.api_key_id,
    )


def announce_end(*, batch: Batch) -> None:
    """Tell the project's webhooks. Call inside the scope, in the transaction that ends the batch."""
    emit_event(
        organization_id=batch.organization_id,
        project_id=batch.project_id,
        type=f"batch.{batch.status}",
        object_id=batch.wire_id,
    )


def _fail(batch: Batch, errors: list[dict[str, Any]]) -> None:
    batch.status = Batch.Status.FAILED
    batch.failed_at = timezone.now()
    batch.errors = errors
    batch.save()
    release_file(file_id=batch.input_file_id, holder=batch.wire_id)
    announce_end(batch=batch)
    record(actor=SYSTEM_ACTOR, action="batch.failed", subject=batch.wire_id, organization_id=batch.organization_id)


def queue_control_work(batch: Batch, kind: str) -> None:
    """Work of the control plane on a batch: its validation, assembly or clearing. Call inside the scope."""
    lease = create_lease(
        organization_id=batch.organization_id,
        kind=kind,
        model="",
        estimated_tokens=0,
        deadline_at=batch.expires_at,
    )
    batch.control_lease = lease
    batch.save(update_fields=["control_lease"])


def _closing(batch: Batch) -> QuerySet[Batch]:
    """The batch, if it is on its way to an early end and its files are not being written yet."""
    return Batch.objects.filter(id=batch.id, finalizing_at=None).exclude(closing_as="").exclude(status__in=TERMINAL)


def _work_leases(batch: Batch) -> list[UUID]:
    shards = Shard.objects.filter(batch_id=batch.id).values_list("lease_id", flat=True)
    validation = Batch.objects.filter(id=batch.id, control_lease__kind=VALIDATION_KIND)
    return [*shards, *validation.values_list("control_lease_id", flat=True)]
