"""What each kind of lease means. An app registers its kinds in ``AppConfig.ready``.

Methods are called inside the scope of the lease's organisation with the lease locked, :meth:`LeaseHandler.run`
apart, which manages its own scopes.
"""

from typing import Any, ClassVar

from catalog.models import FineTunedModel
from fleet.models import Lease


class LeaseHandler:
    """Base of the handlers; the defaults suit a kind that needs nothing special."""

    kind: ClassVar[str]

    def claimed(self, lease: Lease) -> None:
        """A node has claimed the lease a moment ago: here alone it is not locked yet."""

    def describe(self, lease: Lease) -> dict[str, Any]:
        """What the holder needs to know to do the work (``LeaseGrant.work``)."""
        return {}

    def adapter(self, lease: Lease) -> FineTunedModel | None:
        """The adapter that the work needs, whose files the holder may fetch."""
        return None

    def completed(self, lease: Lease) -> None:
        """The holder says that it is done; raise to refuse."""

    def released(self, lease: Lease) -> None:
        """The holder has let go of the lease or was lost: it waits for another, or pauses."""

    def exhausted(self, lease: Lease, *, code: str, message: str) -> None:
        """Nothing more will be tried: record the failure where customers see it."""
        raise NotImplementedError  # every kind has customers or operators who must see it

    def stopped(self, lease: Lease) -> None:
        """The holder of a lease whose cancellation was requested has let go of it."""


class ControlHandler(LeaseHandler):
    """A kind that the control plane's own Celery workers do."""

    is_background: ClassVar[bool] = False
    """May take many minutes: few at once, and only where nothing else waits, so that the rest never waits for it."""

    def run(self, lease: Lease) -> None:
        """Do the work under a :class:`fleet.heartbeat.Heartbeat`; may raise, is repeated then."""
        raise NotImplementedError  # it is what a kind is


_handlers: dict[str, LeaseHandler] = {}


def register(handler: LeaseHandler) -> None:
    """Make a kind known."""
    _handlers[handler.kind] = handler


def handler_of(lease: Lease) -> LeaseHandler:
    """The handler of a lease's kind."""
    return _handlers[lease.kind]


def control_kinds(*, is_background: bool = False) -> list[str]:
    """Kinds that the control plane does itself: those that somebody waits for, or the others."""
    return [
        kind
        for kind, handler in _handlers.items()
        if isinstance(handler, ControlHandler) and handler.is_background == is_background
    ]
