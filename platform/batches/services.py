"""The life of a batch: create, cancel, expire, close.

Locks are always taken in the order lease, then batch; what must begin with the batch (cancel, expiry) marks it
in a transaction of its own and touches the leases in the next, which the periodic task repeats if need be.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from batches.models import Batch, Row, Shard
from catalog.models import BaseModel
from common.errors import HoneError, not_found
from common.ids import from_wire
from common.storage import IncomingBlob
from files.models import StoredFile
from files.services import NewFile, add_file, hold_file, lock_file, release_file
from fleet.models import Lease
from fleet.services import complete_lease, create_lease, lock_lease, request_cancel, revoke_leases
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR, record

logger = structlog.get_logger(__name__)

WINDOWS = {"24h": timedelta(hours=24)}
VALIDATION_KIND = "batch_validation"
ASSEMBLY_KIND = "batch_assembly"


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """What a customer asks for."""

    input_file_id: str
    endpoint: str
    completion_window: str
    on_invalid: Batch.OnInvalid = Batch.OnInvalid.FAIL
    metadata: dict[str, str] = field(default_factory=dict)
    output_lifetime_seconds: int | None = None


def create_batch(*, project: Project, key: ApiKey, new: NewBatch) -> Batch:
    """Accept a batch and queue its validation. The input file cannot be deleted until the batch has ended."""
    with tenant_scope(project.organization_id):
        file = lock_file(project=project, wire_id=new.input_file_id, param="input_file_id")
        if file.purpose != StoredFile.Purpose.BATCH:
            raise HoneError(
                "invalid_purpose",
                f"The file has the purpose '{file.purpose}'; upload it with the purpose 'batch'",
                param="input_file_id",
            )
        now = timezone.now()
        batch = Batch.objects.create(
            organization_id=project.organization_id,
            project_id=project.id,
            api_key_id=key.id,
            endpoint=new.endpoint,
            completion_window=new.completion_window,
            on_invalid=new.on_invalid,
            metadata=new.metadata,
            output_lifetime_seconds=new.output_lifetime_seconds,
            input_file_id=file.id,
            created_at=now,
            expires_at=now + WINDOWS[new.completion_window],
        )
        hold_file(file=file, holder=batch.wire_id)
        _queue_control_work(batch, VALIDATION_KIND)
        record(
            actor=key.wire_id,
            action="batch.created",
            subject=batch.wire_id,
            organization_id=project.organization_id,
            details={"input_file": file.wire_id, "endpoint": new.endpoint},
        )
    return batch


def cancel_batch(*, project: Project, wire_id: str, actor: str) -> Batch:
    """Stop a batch: what has finished is kept and charged, the rest does not run. Repeating it is harmless."""
    with tenant_scope(project.organization_id):
        batch_id = from_wire(Batch.ID_PREFIX, wire_id)
        batch = (
            Batch.objects.select_for_update().filter(id=batch_id, project_id=project.id).first() if batch_id else None
        )
        if batch is None:
            raise not_found("batch", wire_id)
        if batch.status in (Batch.Status.CANCELLING, Batch.Status.CANCELLED):
            return batch
        if batch.status not in (Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS) or batch.closing_as:
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
        marked = Batch.objects.filter(
            id=batch.id, closing_as="", status__in=[Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS]
        ).update(closing_as=Batch.Status.EXPIRED)
        if marked:
            record(
                actor=SYSTEM_ACTOR, action="batch.expired", subject=batch.wire_id, organization_id=batch.organization_id
            )
    close_batch(batch=batch)


def close_batch(*, batch: Batch) -> None:
    """Bring a marked batch to its end as far as that is possible now; called again until it is there.

    Holders are asked first, so that they can bring what they have finished; after the grace they are fenced off.
    """
    with tenant_scope(batch.organization_id):
        leases = _work_leases(batch)
        request_cancel(lease_ids=leases)
    with tenant_scope(batch.organization_id):
        held = Lease.objects.filter(id__in=leases, state=Lease.State.LEASED)
        oldest = held.order_by("cancel_requested_at").values_list("cancel_requested_at", flat=True).first()
        grace = timedelta(seconds=settings.BATCH_CANCEL_GRACE_SECONDS)
        if oldest is not None and timezone.now() - oldest < grace:
            return
        revoke_leases(lease_ids=leases)
        locked = Batch.objects.select_for_update().get(id=batch.id)
        if not locked.closing_as or locked.status not in (
            Batch.Status.VALIDATING,
            Batch.Status.IN_PROGRESS,
            Batch.Status.CANCELLING,
        ):
            return
        state = Row.State.CANCELLED if locked.closing_as == Batch.Status.CANCELLED else Row.State.EXPIRED
        count = Row.objects.filter(batch_id=locked.id, state=Row.State.PENDING).update(state=state)
        locked.pending -= count
        if state == Row.State.CANCELLED:
            locked.cancelled += count
        else:
            locked.expired += count
        locked.save(update_fields=["pending", "cancelled", "expired"])
        start_assembly(batch=locked)


def start_assembly(*, batch: Batch) -> None:
    """No row is pending any more: queue the writing of the output files. Call with the batch locked."""
    if batch.status != Batch.Status.CANCELLING:
        batch.status = Batch.Status.FINALIZING
    batch.finalizing_at = timezone.now()
    batch.save(update_fields=["status", "finalizing_at"])
    _queue_control_work(batch, ASSEMBLY_KIND)


def close_failed(*, lease: Lease, errors: list[dict[str, Any]], error_blob: IncomingBlob | None = None) -> None:
    """End a batch that did not pass validation: nothing ran, nothing is charged."""
    key = error_blob.keep_new(lease.organization_id, "files") if error_blob else None
    with tenant_scope(lease.organization_id):
        lock_lease(lease_id=lease.id, epoch=lease.epoch)
        batch = Batch.objects.select_for_update().get(control_lease_id=lease.id)
        if error_blob is not None and key is not None:
            batch.error_file = add_result_file(batch=batch, blob=error_blob, key=key, name="errors")
        _fail(batch, errors)
        complete_lease(lease=lease)


def fail_unrunnable(*, lease: Lease, code: str, message: str) -> None:
    """Control work on a batch has failed for good. Call inside the scope, with the lease locked."""
    batch = Batch.objects.select_for_update().get(control_lease_id=lease.id)
    if not batch.is_terminal:
        _fail(
            batch, [{"code": code, "message": f"{message} (given up after several tries)", "param": None, "line": None}]
        )


def fail_rows(*, shard: Shard, code: str, message: str) -> None:
    """The pending rows of a shard will not run. Call inside the scope, with the shard's lease locked or ended."""
    batch = Batch.objects.select_for_update().get(id=shard.batch_id)
    error = {"code": code, "message": message, "param": None}
    count = Row.objects.filter(shard_id=shard.id, state=Row.State.PENDING).update(state=Row.State.FAILED, error=error)
    batch.pending -= count
    batch.failed += count
    batch.save(update_fields=["pending", "failed"])
    if count and batch.pending == 0 and batch.status == Batch.Status.IN_PROGRESS and not batch.closing_as:
        start_assembly(batch=batch)


def fail_retired(*, shard: Shard) -> None:
    """A shard waits for a model that has left the catalogue: its rows fail with that reason."""
    with tenant_scope(shard.organization_id):
        lease = Lease.objects.select_for_update().filter(id=shard.lease_id, state=Lease.State.WAITING).first()
        if lease is None:
            return
        revoke_leases(lease_ids=[lease.id])
        fail_rows(shard=shard, code="model_not_found", message=f"The model '{shard.model}' has been withdrawn")


def close_due_batches(*, limit: int = 200) -> None:
    """Expire what is over, finish what is being closed, fail what waits for a withdrawn model."""
    # All three are found across tenants; each batch is then worked on in its own tenant's scope.
    unfinished = [Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS, Batch.Status.CANCELLING]
    open_batches = Batch.all_tenants.filter(status__in=unfinished)
    for batch in open_batches.filter(closing_as="", expires_at__lte=timezone.now())[:limit]:
        expire_batch(batch=batch)
    for batch in open_batches.exclude(closing_as="").filter(finalizing_at=None)[:limit]:
        close_batch(batch=batch)
    retired = BaseModel.objects.filter(is_active=False).values_list("name", flat=True)
    waiting = Shard.all_tenants.filter(model__in=list(retired), lease__state=Lease.State.WAITING)
    for shard in waiting[:limit]:
        fail_retired(shard=shard)


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


def _fail(batch: Batch, errors: list[dict[str, Any]]) -> None:
    batch.status = Batch.Status.FAILED
    batch.failed_at = timezone.now()
    batch.errors = errors
    batch.save()
    release_file(file_id=batch.input_file_id, holder=batch.wire_id)
    record(actor=SYSTEM_ACTOR, action="batch.failed", subject=batch.wire_id, organization_id=batch.organization_id)


def _queue_control_work(batch: Batch, kind: str) -> None:
    lease = create_lease(
        organization_id=batch.organization_id,
        kind=kind,
        model="",
        estimated_tokens=0,
        deadline_at=batch.expires_at,
    )
    batch.control_lease = lease
    batch.save(update_fields=["control_lease"])


def _work_leases(batch: Batch) -> list[Any]:
    shards = list(Shard.objects.filter(batch_id=batch.id).values_list("lease_id", flat=True))
    current = Batch.objects.filter(id=batch.id, control_lease__kind=VALIDATION_KIND)
    return shards + list(current.values_list("control_lease_id", flat=True))
