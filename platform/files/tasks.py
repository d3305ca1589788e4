"""Periodic work on files."""

from celery import shared_task

from common.orphans import delete_orphaned_blobs
from common.tasks import single_flight
from files.services import delete_expired_files, forget_deleted_files
from files.uploads import close_uploads


@shared_task(name="files.tasks.delete_expired")
@single_flight
def delete_expired() -> None:
    """Delete what has expired."""
    delete_expired_files()


@shared_task(name="files.tasks.close_old_uploads")
@single_flight
def close_old_uploads() -> None:
    """End uploads that nobody completes, and clean up after all that have ended."""
    close_uploads()


@shared_task(name="files.tasks.delete_orphans")
@single_flight
def delete_orphans() -> None:
    """Delete bytes that nothing refers to, of every kind."""
    delete_orphaned_blobs()


@shared_task(name="files.tasks.forget_deleted")
@single_flight
def forget_deleted() -> None:
    """Delete the rows of files that are long gone."""
    forget_deleted_files()
