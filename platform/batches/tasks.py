"""Periodic work on batches."""

from celery import shared_task

from batches.services import close_due_batches
from common.tasks import single_flight


@shared_task(name="batches.tasks.close_due")
@single_flight
def close_due() -> None:
    """Expire, finish closing, fail what cannot run."""
    close_due_batches()
