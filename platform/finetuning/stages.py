"""The work that carries a job on, one piece after the other:

preparation (control plane) -> training (node) -> publication (control plane) -> trial (node, :mod:`canaries`) ->
evaluation (node) -> report (control plane) -> conclusion (control plane).

Each is a lease of its own, so each can fail, be repeated, and be killed without the others. Whoever ends one queues the
next in the same transaction. Locks: the lease, then the job.
"""

from datetime import timedelta

from finetuning.models import FineTuningJob
from finetuning.selectors import get_leased_job
from fleet.models import Lease
from fleet.services import create_lease, lock_lease
from inference_workers.protocol import LeaseKind

PREPARATION_KIND = "finetuning_preparation"
TRAINING_KIND = LeaseKind.TRAINING.value
PUBLICATION_KIND = "finetuning_publication"
EVALUATION_KIND = LeaseKind.EVALUATION.value
REPORT_KIND = "finetuning_report"
CONCLUSION_KIND = "finetuning_conclusion"
CHECKPOINT_KIND = "finetuning_checkpoint"
"""Beside the others: one for each checkpoint that is to be published."""

_PATIENCE = timedelta(days=30)
"""Within the organisation the older job goes first; a training has no hour by which it must be done."""


def queue_stage(*, job: FineTuningJob, kind: str, model: str = "", estimated_tokens: int = 0) -> Lease:
    """From here on this work carries the job on. Call inside the scope, with the job and its former lease locked."""
    lease = create_lease(
        organization_id=job.organization_id,
        kind=kind,
        model=model,
        estimated_tokens=estimated_tokens,
        deadline_at=job.created_at + _PATIENCE,
    )
    job.lease = lease
    job.save(update_fields=["lease"])
    return lease


def lock_leased_job(*, lease: Lease) -> FineTuningJob:
    """The job that this lease carries on, both locked until the scope ends; ``lease_lost`` when it does no more."""
    lock_lease(lease_id=lease.id, epoch=lease.epoch)
    return get_leased_job(lease=lease, lock=True)
