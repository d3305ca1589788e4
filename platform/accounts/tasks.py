"""Periodic work on people."""

from celery import shared_task

from accounts.services import forget_ended_sessions, send_due_emails
from common.tasks import single_flight


@shared_task(name="accounts.tasks.send_emails")
@single_flight
def send_emails() -> None:
    """Hand what waits in the outbox to the relay."""
    send_due_emails()


@shared_task(name="accounts.tasks.forget_sessions")
@single_flight
def forget_sessions() -> None:
    """Forget sessions that have run out."""
    forget_ended_sessions()
