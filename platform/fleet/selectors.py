"""Reads about nodes and waiting work."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import connections
from django.db.models import DurationField, ExpressionWrapper, F, Sum
from django.db.models.functions import Now

from common.database import SYSTEM
from fleet.handlers import control_kinds
from fleet.models import Lease, Node, WorkerToken
from fleet.services import WORKER_PREFIX
from inference_workers.protocol import ModelState
from tenants.keys import matches, split_token

NODE_UP_SECONDS = 30
"""A node that has been silent for longer is not counted on."""

_TOKENS_PER_SECOND = """
SELECT coalesce(max((report ->> 'tokens_per_second')::float), 0)
FROM fleet_node CROSS JOIN LATERAL jsonb_array_elements(model_reports) report
WHERE last_seen_at > statement_timestamp() - make_interval(secs => %(up)s)
    AND report ->> 'name' = %(model)s AND report ->> 'state' = 'ready'
"""


def find_worker_token(token: str) -> WorkerToken | None:
    """The live token of a bearer secret."""
    parts = split_token(token, WORKER_PREFIX)
    found = WorkerToken.objects.using(SYSTEM).filter(public_id=parts[0], revoked_at=None).first() if parts else None
    return found if parts and found and matches(parts[1], found.digest) else None


def find_node(*, token: str, node_id: str) -> Node | None:
    """The node of that id, if it has registered with this live bearer secret: both in one statement."""
    parts = split_token(token, WORKER_PREFIX)
    try:
        wanted = Node.objects.using(SYSTEM).select_related("token").filter(id=UUID(node_id))
    except ValueError:
        return None
    node = wanted.filter(token__public_id=parts[0], token__revoked_at=None).first() if parts else None
    return node if parts and node and matches(parts[1], node.token.digest) else None


def find_held_lease(*, token: str, lease_id: UUID, epoch: int) -> Lease | None:
    """The lease, if this epoch holds it and its node has registered with this live bearer secret.

    One statement, and no lock: who changes anything asks again under one. Crosses tenants, because the caller is a
    node, which belongs to none; its lease token says which lease it may ask for.
    """
    parts = split_token(token, WORKER_PREFIX)
    held = Lease.all_tenants.select_related("node__token").filter(id=lease_id, epoch=epoch, state=Lease.State.LEASED)
    lease = held.filter(node__token__public_id=parts[0], node__token__revoked_at=None).first() if parts else None
    return lease if parts and lease and lease.node and matches(parts[1], lease.node.token.digest) else None


def list_nodes() -> list[tuple[Node, float]]:
    """Every node by name, with the seconds since it was last heard."""
    silence = ExpressionWrapper(Now() - F("last_seen_at"), output_field=DurationField())
    nodes = Node.objects.using(SYSTEM).annotate(silence=silence).order_by("name")
    return [(node, node.silence.total_seconds()) for node in nodes]


def node_tokens_per_second(*, model: str) -> float:
    """What the fastest node that is up with this model ready makes of it; 0 when none is, or none knows yet.

    In prompt and completion tokens, as the nodes report them.
    """
    with connections[SYSTEM].cursor() as cursor:
        cursor.execute(_TOKENS_PER_SECOND, {"model": model, "up": NODE_UP_SECONDS})
        (rate,) = cursor.fetchone()
    return float(rate)


def has_control_work() -> bool:
    """Whether work of the control plane itself waits, of any tenant."""
    return Lease.all_tenants.filter(
        state=Lease.State.WAITING, model="", kind__in=control_kinds(), not_before__lte=Now()
    ).exists()


def ready_models() -> set[str]:
    """Models that a node which is up and takes new work serves."""
    up = timedelta(seconds=NODE_UP_SECONDS)
    return {
        report["name"]
        for node in Node.objects.using(SYSTEM).filter(last_seen_at__gt=Now() - up, is_draining=False)
        for report in node.model_reports
        if report["state"] == ModelState.READY
    }


def waiting_organizations(*, kind: str, models: set[str], besides: UUID) -> int:
    """How many other organisations have work of this kind waiting for these models.

    Crosses tenants, and tells but a number.
    """
    waiting = Lease.all_tenants.filter(state=Lease.State.WAITING, kind=kind, model__in=models)
    return waiting.exclude(organization_id=besides).values("organization_id").distinct().count()


def open_tokens(*, kind: str, model: str, besides: UUID) -> int:
    """Estimated tokens of other organisations' work of this kind for the model, which waits or runs.

    Crosses tenants, and tells but a number.
    """
    states = (Lease.State.WAITING, Lease.State.LEASED)
    leases = Lease.all_tenants.filter(kind=kind, model=model, state__in=states).exclude(organization_id=besides)
    tokens: int = leases.aggregate(tokens=Sum("estimated_tokens", default=0))["tokens"]
    return tokens


@dataclass(frozen=True)
class TrainingPlaces:
    """What the nodes that are up and take new work can do for trainings of one model."""

    nodes: int
    tokens_per_second: float
    """Of the fastest; 0 while none knows."""


def training_places(*, model: str) -> TrainingPlaces:
    """Of the nodes that train this model."""
    up = timedelta(seconds=NODE_UP_SECONDS)
    paces = [
        float(report.get("training_tokens_per_second", 0))
        for node in Node.objects.using(SYSTEM).filter(last_seen_at__gt=Now() - up, is_draining=False)
        for report in node.model_reports
        if report["name"] == model and report.get("trains")
    ]
    return TrainingPlaces(nodes=len(paces), tokens_per_second=max(paces, default=0.0))
