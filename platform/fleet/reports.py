"""What a node says of itself once a second, and what it is told.

One statement keeps the report and renews every lease the node holds. It crosses tenants, hence the system role; a
lease is found by node, epoch and state together, so a claim that has ended is not renewed whoever asks.
"""

from dataclasses import asdict
from uuid import UUID

import orjson
from django.conf import settings
from django.db import connections

from common.database import SYSTEM
from common.ids import from_wire
from fleet.models import Lease, Node
from inference_workers.protocol import HeldLease, LeaseAction, NodeOrders, NodeReport

RENEW_BELOW = 2 / 3
"""A lease is renewed when less than this part of its time is left: not every second is worth a write per lease."""
MAX_EPOCH = 2**31 - 1

_REPORT = """
WITH node AS (
    UPDATE fleet_node SET model_reports = %(models)s::jsonb, last_seen_at = statement_timestamp()
    WHERE id = %(node)s AND incarnation = %(incarnation)s
    RETURNING id
),
held AS (
    SELECT lease.id, lease.epoch, CASE
        WHEN lease.cancel_requested_at IS NOT NULL THEN 'cancel'
        WHEN lease.pause_requested_at IS NOT NULL THEN 'pause'
        ELSE 'continue'
    END AS action
    FROM unnest(%(leases)s::uuid[], %(epochs)s::integer[]) AS given (id, epoch)
    JOIN fleet_lease lease ON lease.id = given.id AND lease.epoch = given.epoch
    JOIN node ON node.id = lease.node_id
    WHERE lease.state = 'leased'
),
free AS (
    -- A lease that is locked (a segment is being stored, a cancellation noted) is left to the next second: waiting
    -- for it would hold up all others, and locking several beside those who lock several could end in a deadlock.
    SELECT lease.id FROM fleet_lease lease JOIN held ON held.id = lease.id AND held.epoch = lease.epoch
    WHERE lease.state = 'leased' AND lease.leased_until < statement_timestamp() + make_interval(secs => %(renew_below)s)
    FOR UPDATE OF lease SKIP LOCKED
),
renewed AS (
    UPDATE fleet_lease SET leased_until = statement_timestamp() + make_interval(secs => %(hold)s)
    FROM free WHERE fleet_lease.id = free.id
)
SELECT id, action FROM held
"""


def take_report(*, node: Node, report: NodeReport) -> NodeOrders:
    """Keep what a node says of its models, renew its leases, and pass on what is wished of their holder."""
    asked = {lease.id: _key(lease) for lease in report.leases}
    keys = [key for key in asked.values() if key is not None]
    with connections[SYSTEM].cursor() as cursor:
        cursor.execute(
            _REPORT,
            {
                "node": node.id,
                "incarnation": report.incarnation,
                "models": orjson.dumps([asdict(model) for model in report.models]).decode(),
                "leases": [lease_id for lease_id, _ in keys],
                "epochs": [epoch for _, epoch in keys],
                "hold": settings.LEASE_SECONDS,
                "renew_below": settings.LEASE_SECONDS * RENEW_BELOW,
            },
        )
        actions: dict[UUID, str] = dict(cursor.fetchall())
    orders = {
        wire_id: LeaseAction(actions[key[0]]) if key is not None and key[0] in actions else LeaseAction.LOST
        for wire_id, key in asked.items()
    }
    return NodeOrders(drain=node.is_draining, leases=orders)


def _key(lease: HeldLease) -> tuple[UUID, int] | None:
    """The claim as the database knows it; None for one that cannot exist."""
    lease_id = from_wire(Lease.ID_PREFIX, lease.id)
    return (lease_id, lease.epoch) if lease_id is not None and 0 < lease.epoch <= MAX_EPOCH else None
