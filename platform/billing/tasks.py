"""Celery tasks of billing."""

import structlog
from celery import shared_task

from billing.selectors import find_discrepancies
from common.tasks import single_flight

logger = structlog.get_logger(__name__)


@shared_task(name="billing.tasks.check")
@single_flight
def check() -> None:
    """Prove the books; what is wrong is an error for the operator to look into."""
    for discrepancy in find_discrepancies():
        logger.error("the ledger does not add up", discrepancy=discrepancy)
