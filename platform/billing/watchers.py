"""Who wants to know that an organisation has got more money. Apps above billing register in ``AppConfig.ready``."""

from collections.abc import Callable
from uuid import UUID

import structlog
from django.db import transaction

logger = structlog.get_logger(__name__)

_watchers: list[Callable[[UUID], None]] = []


def on_credit(callback: Callable[[UUID], None]) -> None:
    """Call ``callback`` with the organisation's id after each credit, outside of its transaction and of any scope.

    A doorbell: it is lost when the process dies between commit and call, so whoever waits for money also looks from
    time to time. An exception is logged and keeps nobody else from being called.
    """
    _watchers.append(callback)


def announce_credit(*, organization_id: UUID) -> None:
    """Tell the watchers once the transaction has been committed."""

    def tell() -> None:
        for callback in _watchers:
            try:
                callback(organization_id)
            except Exception:  # the money is there already, and the others want to know it too
                logger.exception("a watcher of credit failed", organization_id=str(organization_id))

    transaction.on_commit(tell)
