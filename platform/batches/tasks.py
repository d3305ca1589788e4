"""Periodic work on batches."""

from celery import shared_task

from batches.closing import close_due_batches
from batches.funding import steer_waiting_batches
from batches.retention import remove_old_leases, remove_old_rows
from common.tasks import single_flight


@shared_task(name="batches.tasks.close_due")
@single_flight
def close_due() -> None:
    """Expire, finish closing, fail what cannot run."""
    close_due_batches()


@shared_task(name="batches.tasks.steer_waiting")
@single_flight
def steer_waiting() -> None:
    """Let batches run, or pause, as their owners wish and can pay."""
    steer_waiting_batches()


@shared_task(name="batches.tasks.remove_old")
@single_flight
def remove_old() -> None:
    """Remove what finished batches do not need any more."""
    remove_old_rows()
    remove_old_leases()
