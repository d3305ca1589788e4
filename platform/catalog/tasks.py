"""Celery tasks of the catalogue."""

from celery import shared_task

from catalog.publishing import delete_leftover_bytes
from common.tasks import single_flight


@shared_task(name="catalog.tasks.delete_leftovers")
@single_flight
def delete_leftovers() -> None:
    """Delete what interrupted deletions of fine-tuned models have left."""
    delete_leftover_bytes()
