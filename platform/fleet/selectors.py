"""Reads about nodes and waiting work."""

from uuid import UUID

from django.db.models.functions import Now

from common.database import SYSTEM
from common.errors import HoneError
from fleet.handlers import control_kinds
from fleet.models import Lease, Node, WorkerToken
from fleet.services import WORKER_PREFIX
from tenants.keys import matches, split_token


def find_worker_token(token: str) -> WorkerToken | None:
    """The live token of a bearer secret."""
    parts = split_token(token, WORKER_PREFIX)
    found = WorkerToken.objects.using(SYSTEM).filter(public_id=parts[0], revoked_at=None).first() if parts else None
    return found if parts and found and matches(parts[1], found.digest) else None


def get_node(*, token: WorkerToken, node_id: str) -> Node:
    """A node that registered with this token."""
    try:
        node = Node.objects.using(SYSTEM).filter(id=UUID(node_id), token=token).first()
    except ValueError:
        node = None
    if node is None:
        raise HoneError("not_found", "No such node; say hello first")
    return node


def has_control_work() -> bool:
    """Whether work of the control plane itself waits, of any tenant."""
    return Lease.all_tenants.filter(
        state=Lease.State.WAITING, model="", kind__in=control_kinds(), not_before__lte=Now()
    ).exists()
