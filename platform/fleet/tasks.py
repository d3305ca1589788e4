"""Celery tasks of the fleet: thin, repeatable, and never the work's only record."""

import structlog
from celery import shared_task
from structlog.contextvars import bound_contextvars

from common.errors import HoneError
from common.tasks import single_flight
from fleet.claims import claim_lease
from fleet.doorbell import CONTROL_TASK, ring
from fleet.handlers import ControlHandler, control_kinds, handler_of
from fleet.heartbeat import WorkCancelledError
from fleet.models import Lease
from fleet.selectors import has_control_work, has_room_in_background
from fleet.services import release_lease, sweep_leases

logger = structlog.get_logger(__name__)


@shared_task(name="fleet.tasks.sweep")
@single_flight
def sweep() -> None:
    """Free silent leases; ring again for work whose message was lost."""
    sweep_leases()
    if has_control_work():
        ring(model="")


@shared_task(name=CONTROL_TASK)
def run_control_work() -> None:
    """Do one waiting piece of the control plane's own work; ring for the next when there was one."""
    lease = claim_lease(kinds=control_kinds(), models=[""], node_id=None)
    # Two that look at the same moment may be one too many: no harm.
    if lease is None and has_room_in_background():
        lease = claim_lease(kinds=control_kinds(is_background=True), models=[""], node_id=None)
    if lease is not None:
        _do(lease)


def do_urgent_work() -> None:
    """Do one waiting piece that somebody waits for, where a long one would keep all else from being done."""
    lease = claim_lease(kinds=control_kinds(), models=[""], node_id=None)
    if lease is not None:
        _do(lease)


def _do(lease: Lease) -> None:
    # Before the work, so that a second worker starts on the next piece meanwhile.
    ring(model="")
    handler = handler_of(lease)
    assert isinstance(handler, ControlHandler)  # noqa: S101  # only such kinds were claimed
    with bound_contextvars(lease=lease.wire_id, kind=lease.kind):
        try:
            handler.run(lease)
        except WorkCancelledError:
            release_lease(lease=lease, code="cancelled", message="The work is not wanted any more")
        except HoneError as error:
            logger.warning("control work interrupted", code=error.code, error=error.message)
            release_lease(lease=lease, code=error.code, message=error.message)
        except Exception:
            logger.exception("control work failed")
            release_lease(lease=lease, code="internal_error", message="The work failed unexpectedly")
