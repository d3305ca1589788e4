"""How work of the control plane itself keeps its lease: alive as long as it gets on, not as long as it exists."""

import time

from fleet.models import Lease
from fleet.services import renew_lease

RENEW_SECONDS = 3


class WorkCancelledError(Exception):
    """Nobody wants the work any more: let go of it."""


class Heartbeat:
    """Call it often; every few seconds it renews the lease.

    Raises ``lease_lost`` when somebody else has the work now, and :class:`WorkCancelledError`.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._last = time.monotonic()

    def __call__(self) -> None:
        """The work gets on."""
        if time.monotonic() - self._last > RENEW_SECONDS:
            self.renew()

    def renew(self, *, seconds: float | None = None) -> None:
        """Renew now; ``seconds`` for a step that cannot call in between."""
        renewed = renew_lease(lease=self._lease, seconds=seconds)
        self._last = time.monotonic()
        if renewed.cancel_requested_at is not None:
            raise WorkCancelledError
