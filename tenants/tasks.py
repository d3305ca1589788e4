"""Periodic work on what tenants have in common."""

from celery import shared_task

from common.tasks import single_flight
from tenants.idempotency import forget_old_requests


@shared_task(name="tenants.tasks.forget_old")
@single_flight
def forget_old() -> None:
    """Forget creates that nobody repeats any more."""
    forget_old_requests()
