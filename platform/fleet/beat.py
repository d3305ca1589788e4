"""Celery beat that goes on without a broker: what it cannot send, it does itself.

Otherwise nothing would free the leases of dead nodes, validate or assemble while the broker is away: agents poll, but
the control plane's workers hear of their work through it alone. Every piece of that work may run anywhere and twice.
"""

import time
from typing import Any

import structlog
from celery.beat import PersistentScheduler, ScheduleEntry, SchedulingError
from django.db import close_old_connections

from fleet.tasks import do_urgent_work

logger = structlog.get_logger(__name__)

QUIET_SECONDS = 5
"""How long a broker that has failed is left alone: a mute one costs seconds at every try."""


class Scheduler(PersistentScheduler):
    """Sends what is due or, while that fails, does it, and one waiting piece of control work after each."""

    # Beat would wait for a connection of its own before its first tick. Without one, it takes the app's, one per try.
    producer = None  # type: ignore[assignment]  # a lazy attribute of the base class
    _quiet_until = 0.0

    def apply_async(self, entry: ScheduleEntry, producer: object = None, advance: bool = True, **kwargs: Any) -> object:
        """Send one entry, or run it here."""
        if time.monotonic() >= self._quiet_until:
            try:
                return super().apply_async(entry, producer=None, advance=advance, **kwargs)
            except SchedulingError as error:
                self._quiet_until = time.monotonic() + QUIET_SECONDS
                logger.warning("the broker is away: beat does the work itself", error=str(error))
        close_old_connections()
        self.app.tasks[entry.task].run()  # type: ignore[index]  # every entry names its task
        do_urgent_work()
        return None
