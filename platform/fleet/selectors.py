"""Reads about nodes and waiting work."""

from datetime import timedelta
from uuid import UUID

from django.db.models.functions import Now

from common.database import SYSTEM
from common.errors import HoneError
from fleet.handlers import control_kinds
from fleet.models import Lease, Node, WorkerToken
from fleet.services import WORKER_PREFIX
from inference_workers.protocol import ModelState
from tenants.keys import matches, split_token

NODE_SILENCE = timedelta(seconds=30)
"""A node that has not been heard of for so long counts as gone."""


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


def ready_models() -> set[str]:
    """Models that a node which has been heard of lately serves."""
    return {
        report["name"]
        for node in Node.objects.using(SYSTEM).filter(last_seen_at__gt=Now() - NODE_SILENCE, is_draining=False)
        for report in node.model_reports
        if report["state"] == ModelState.READY
    }


def node_tokens_per_second(*, model: str) -> float:
    """The pace that the fastest node reports for a model, in tokens of prompt and answer; 0 while unknown."""
    return max(
        (
            float(report.get("tokens_per_second", 0))
            for node in Node.objects.using(SYSTEM).filter(last_seen_at__gt=Now() - NODE_SILENCE)
            for report in node.model_reports
            if report["name"] == model and report["state"] == ModelState.READY
        ),
        default=0,
    )


def waiting_organizations(*, models: set[str], besides: UUID) -> int:
    """How many other organisations have work waiting for these models. Crosses tenants, and tells but a number."""
    waiting = Lease.all_tenants.filter(state=Lease.State.WAITING, model__in=models).exclude(organization_id=besides)
    return waiting.values("organization_id").distinct().count()
