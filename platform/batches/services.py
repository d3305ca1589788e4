"""What a customer does with batches: create, retry, pause, resume. How they end: :mod:`batches.closing`."""

from dataclasses import dataclass, field
from datetime import timedelta

from django.utils import timezone

from batches.closing import VALIDATION_KIND, queue_control_work
from batches.funding import steer_after_commit
from batches.models import Batch, Row
from batches.selectors import lock_batch
from catalog.selectors import aliases_of
from common.errors import HoneError
from files.models import StoredFile
from files.services import hold_file, lock_file
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope
from tenants.services import record

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
_PAUSABLE = (Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS)


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """What a customer asks for."""

    input_file_id: str
    endpoint: str
    completion_window: str
    on_invalid: Batch.OnInvalid = Batch.OnInvalid.FAIL
    metadata: dict[str, str] = field(default_factory=dict)
    output_lifetime_seconds: int | None = None
    max_cost_nanos: int | None = None


def create_batch(*, project: Project, key: ApiKey, new: NewBatch, request: CreateRequest) -> Batch:
    """Accept a batch and queue its validation; a repetition of ``request`` gets the batch made then.

    The input file cannot be deleted until the batch has ended.
    """
    with tenant_scope(project.organization_id):
        made = earlier(request, Batch)
        if made is not None:
            return made
        file = lock_file(project=project, wire_id=new.input_file_id, param="input_file_id")
        if file.purpose != StoredFile.Purpose.BATCH:
            raise HoneError(
                "invalid_purpose",
                f"The file has the purpose '{file.purpose}'; upload it with the purpose 'batch'",
                param="input_file_id",
            )
        batch = _add_batch(project, key, new, file)
        remember(request, batch)
    return batch


def retry_batch(
    *, project: Project, key: ApiKey, wire_id: str, request: CreateRequest, max_cost_nanos: int | None = None
) -> Batch:
    """Run the rows of an ended batch again that failed, expired or were cancelled, as a batch of their own.

    A batch is retried once: repeating the call returns the retry, unless that one failed as a whole. Rows that fail
    again are retried from there.
    """
    with tenant_scope(project.organization_id):
        made = earlier(request, Batch)
        if made is not None:
            return made
        parent = lock_batch(project=project, wire_id=wire_id)
        if not parent.is_terminal:
            raise HoneError("conflict", f"The batch is {parent.status}; retry it when it has ended", param="id")
        retry = Batch.objects.filter(retry_of_id=parent.id).exclude(status=Batch.Status.FAILED).first()
        if retry is not None:
            return retry
        rows = Row.objects.filter(batch_id=parent.id, shard__isnull=False)
        # Without its last lease the batch is being cleared of its rows (batches.retention).
        if parent.control_lease_id is None or not rows.exclude(state=Row.State.COMPLETED).exists():
            raise HoneError("conflict", "The batch has no row that could be run again", param="id")
        new = NewBatch(
            input_file_id=parent.input_file.wire_id,
            endpoint=parent.endpoint,
            completion_window=parent.completion_window,
            on_invalid=Batch.OnInvalid(parent.on_invalid),
            metadata=parent.metadata,
            output_lifetime_seconds=parent.output_lifetime_seconds,
            max_cost_nanos=max_cost_nanos,
        )
        file = lock_file(project=project, wire_id=new.input_file_id, param="input_file_id")
        retry = _add_batch(project, key, new, file, retry_of=parent)
        remember(request, retry)
    return retry


def pause_batch(*, project: Project, wire_id: str, actor: str) -> Batch:
    """Let nothing of the batch run until it is resumed; its window goes on. Repeating it is harmless."""
    with tenant_scope(project.organization_id):
        batch = _lock_pausable(project, wire_id, "paused")
        if batch.pause_reason != Batch.PauseReason.REQUESTED:
            batch.pause_reason = Batch.PauseReason.REQUESTED
            batch.save(update_fields=["pause_reason"])
            record(actor=actor, action="batch.paused", subject=wire_id, organization_id=batch.organization_id)
        steer_after_commit(batch=batch)
    return batch


def resume_batch(*, project: Project, wire_id: str, actor: str, max_cost_nanos: int | None = None) -> Batch:
    """Let the batch run on, with another cap if one is given; it pauses again at once where that still forbids."""
    with tenant_scope(project.organization_id):
        batch = _lock_pausable(project, wire_id, "resumed")
        details: dict[str, int] = {}
        if max_cost_nanos is not None:
            if batch.max_cost_nanos is None or max_cost_nanos < batch.max_cost_nanos:
                raise HoneError("invalid_value", "'max_cost' can only be raised", param="max_cost")
            batch.max_cost_nanos = details["max_cost_nanos"] = max_cost_nanos
        batch.pause_reason = ""
        batch.save(update_fields=["pause_reason", "max_cost_nanos"])
        record(
            actor=actor,
            action="batch.resumed",
            subject=wire_id,
            organization_id=batch.organization_id,
            details=details,
        )
        steer_after_commit(batch=batch)
    return batch


def _add_batch(
    project: Project, key: ApiKey, new: NewBatch, file: StoredFile, *, retry_of: Batch | None = None
) -> Batch:
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
        max_cost_nanos=new.max_cost_nanos,
        input_file_id=file.id,
        retry_of=retry_of,
        aliases=retry_of.aliases if retry_of else aliases_of(project_id=project.id),
        created_at=now,
        expires_at=now + WINDOWS[new.completion_window],
    )
    hold_file(file=file, holder=batch.wire_id)
    queue_control_work(batch, VALIDATION_KIND)
    details = {"input_file": file.wire_id, "endpoint": new.endpoint}
    if retry_of is not None:
        details["retry_of"] = retry_of.wire_id
    record(
        actor=key.actor,
        action="batch.created",
        subject=batch.wire_id,
        organization_id=project.organization_id,
        details=details,
    )
    return batch


def _lock_pausable(project: Project, wire_id: str, done: str) -> Batch:
    batch = lock_batch(project=project, wire_id=wire_id)
    if batch.status not in _PAUSABLE or batch.closing_as:
        state = "expiring" if batch.closing_as == Batch.Status.EXPIRED else batch.status
        raise HoneError("conflict", f"A batch that is {state} cannot be {done}", param="id")
    return batch
