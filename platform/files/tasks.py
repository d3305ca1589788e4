"""Periodic work on files."""

from celery import shared_task

from common.tasks import single_flight
from files.services import delete_expired_files


@shared_task(name="files.tasks.delete_expired")
@single_flight
def delete_expired() -> None:
    """Delete what has expired."""
    delete_expired_files()
