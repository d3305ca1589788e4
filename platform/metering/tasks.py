"""Periodic work on usage."""

from celery import shared_task

from common.tasks import single_flight
from metering.services import add_partitions


@shared_task(name="metering.tasks.add_months")
@single_flight
def add_months() -> None:
    """Keep a partition ready for the months to come."""
    add_partitions()
