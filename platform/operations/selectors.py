"""Reads of the operators' work."""

from uuid import UUID

from batches.models import TERMINAL, Batch
from common.errors import not_found
from common.ids import from_wire
from finetuning.models import TERMINAL as JOB_TERMINAL
from finetuning.models import FineTuningJob
from fleet.models import OPEN_STATES, Lease
from tenants.models import Organization
from tenants.scope import tenant_scope


def find_organization(*, wire_id: str) -> Organization:
    """The organisation, whatever its state, or ``not_found``."""
    # Operators work across tenants.
    organization_id = from_wire(Organization.ID_PREFIX, wire_id)
    organization = Organization.all_tenants.filter(id=organization_id).first() if organization_id else None
    if organization is None:
        raise not_found("organisation", wire_id)
    return organization


def open_work(*, organization_id: UUID) -> str:
    """What is still being worked on or waited for, in words; empty when there is nothing."""
    with tenant_scope(organization_id):
        batches = list(Batch.objects.exclude(status__in=TERMINAL).order_by("id")[:10])
        jobs = list(FineTuningJob.objects.exclude(status__in=JOB_TERMINAL).order_by("id")[:10])
        leases = Lease.objects.filter(state__in=OPEN_STATES).count()
    named = [
        f"{batch.wire_id} is {batch.status}{f' and held: {batch.held_reason}' if batch.held_reason else ''}"
        for batch in batches
    ]
    named += [f"{job.wire_id} is {job.status}" for job in jobs]
    if leases:
        named.append(f"{leases} leases are open")
    return "; ".join(named)
