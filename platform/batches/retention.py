"""What a batch was worked on in goes some time after its end; the batch, its files, its usage and its audit rows stay.

Everything here may be killed at any point and run again: it asks what is still there.
"""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from batches.closing import ASSEMBLY_KIND, CLEARING_KIND, VALIDATION_KIND
from batches.models import TERMINAL, Batch, Row, Segment, Shard
from common.storage import delete_blob
from common.tasks import attempt
from fleet.models import OPEN_STATES, Lease
from tenants.scope import tenant_scope

CHUNK_ROWS = 10_000
CONTROL_KINDS = (VALIDATION_KIND, ASSEMBLY_KIND, CLEARING_KIND)


def remove_old_rows(*, limit: int = 2_000) -> int:
    """Delete rows, segments, shards and leases of batches that ended ``BATCH_ROW_RETENTION_DAYS`` ago; of how many.

    A batch whose files could not be written keeps all: ``manage.py reassemble_batch`` still needs it.
    """
    if not settings.BATCH_ROW_RETENTION_DAYS:
        return 0
    cutoff = Now() - timedelta(days=settings.BATCH_ROW_RETENTION_DAYS)
    has_ended = Q()
    for status in TERMINAL:
        has_ended |= Q(status=status, **{f"{status}_at__lt": cutoff})
    # Found across tenants; each batch is then cleared in its own tenant's scope.
    has_something = (
        Q(control_lease__isnull=False)
        | Exists(Row.all_tenants.filter(batch_id=OuterRef("id")))
        | Exists(Shard.all_tenants.filter(batch_id=OuterRef("id")))
    )
    # Which rows a retry runs again is read from the rows of the batch that it retries.
    is_being_retried = Exists(Batch.all_tenants.filter(retry_of_id=OuterRef("id"), status=Batch.Status.VALIDATING))
    due = (
        Batch.all_tenants.filter(has_ended, has_something, ~is_being_retried)
        .exclude(status=Batch.Status.FAILED, finalizing_at__isnull=False)
        .exclude(control_lease__state__in=OPEN_STATES)
    )
    cleared = 0
    for organization_id, batch_id in due.order_by("id").values_list("organization_id", "id")[:limit]:
        cleared += attempt(_clear, organization_id, batch_id)
    return cleared


def remove_old_leases(*, limit: int = 10_000) -> int:
    """Delete ended leases of validation, assembly and clearing, as old as rows may get; how many.

    A batch refers to the last of its own alone.
    """
    if not settings.BATCH_ROW_RETENTION_DAYS:
        return 0
    cutoff = Now() - timedelta(days=settings.BATCH_ROW_RETENTION_DAYS)
    is_referred_to = Exists(Batch.all_tenants.filter(control_lease_id=OuterRef("id")))
    # Found across tenants; each is then deleted in its own tenant's scope.
    old = Lease.all_tenants.filter(~is_referred_to, kind__in=CONTROL_KINDS, created_at__lt=cutoff).exclude(
        state__in=OPEN_STATES
    )
    by_organization: dict[UUID, list[UUID]] = {}
    for organization_id, lease_id in old.values_list("organization_id", "id")[:limit]:
        by_organization.setdefault(organization_id, []).append(lease_id)
    for organization_id, lease_ids in by_organization.items():
        with tenant_scope(organization_id):
            Lease.objects.filter(id__in=lease_ids).delete()
    return sum(map(len, by_organization.values()))


def _clear(organization_id: UUID, batch_id: UUID) -> None:
    with tenant_scope(organization_id):
        # First, so that nobody starts anything with rows that are going.
        control_lease_id = Batch.objects.select_for_update().get(id=batch_id).control_lease_id
        if control_lease_id is not None:
            Batch.objects.filter(id=batch_id).update(control_lease=None)
            Lease.objects.filter(id=control_lease_id).delete()
        keys = Segment.objects.filter(batch_id=batch_id).exclude(storage_key="").values_list("storage_key", flat=True)
        blobs = list(keys)
    for key in blobs:  # cleared at the batch's end, unless that failed
        delete_blob(key)
    while _delete_rows(organization_id, batch_id):
        pass
    with tenant_scope(organization_id), connection.cursor() as cursor:
        # By SQL: Django would look for rows of each segment, and rows are indexed by their batch alone.
        cursor.execute("DELETE FROM batches_segment WHERE batch_id = %s", [batch_id])
        cursor.execute("DELETE FROM batches_shard WHERE batch_id = %s RETURNING lease_id", [batch_id])
        leases = [lease_id for (lease_id,) in cursor.fetchall()]
        cursor.execute("DELETE FROM fleet_lease WHERE id = ANY (%s)", [leases])


def _delete_rows(organization_id: UUID, batch_id: UUID) -> bool:
    """A chunk of them; whether there was one."""
    with tenant_scope(organization_id):
        rows = Row.objects.filter(batch_id=batch_id).order_by("line")
        lines = list(rows.values_list("line", flat=True)[:CHUNK_ROWS])
        if lines:
            Row.objects.filter(batch_id=batch_id, line__lte=lines[-1]).delete()
    return bool(lines)
