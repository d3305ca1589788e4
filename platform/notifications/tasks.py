"""Periodic work on webhooks."""

from celery import shared_task

from common.tasks import single_flight
from notifications.delivery import send_due_deliveries
from notifications.services import SEND_TASK, delete_old_events


@shared_task(name=SEND_TASK)
@single_flight
def send_due() -> None:
    """Send what is due. Also called after the commit of an event; one at a time, so that slow receivers of webhooks
    never hold more than one of the control workers."""
    send_due_deliveries()


@shared_task(name="notifications.tasks.delete_old")
@single_flight
def delete_old() -> None:
    """Forget what has passed its retention."""
    while delete_old_events():
        pass
