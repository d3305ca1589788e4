"""Periodic work on what tenants have in common."""

from celery import shared_task

from common.tasks import single_flight
from tenants import invites
from tenants.idempotency import forget_old_requests


@shared_task(name="tenants.tasks.forget_old")
@single_flight
def forget_old() -> None:
    """Forget creates that nobody repeats any more."""
    forget_old_requests()


@shared_task(name="tenants.tasks.send_invites")
@single_flight
def send_invites() -> None:
    """Mail the invitations that are due. No doorbell: seconds do not matter to a mail, and a lost one must."""
    invites.send_invites()
