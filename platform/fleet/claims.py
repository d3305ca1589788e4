"""The claim: one statement that picks fairly, locks without waiting and moves the epoch on.

Fairness (ARCHITECTURE 5): the organisation with the least running work of the same kinds per weight, in estimated
tokens, then the earliest deadline. Organisations that wait are found by walking the index from one to the next, so the
cost does not grow with the number of waiting leases.
"""

from collections.abc import Sequence
from uuid import UUID

from django.conf import settings

from fleet.models import Lease

_CLAIM = """
WITH RECURSIVE waiting AS (
    -- Ordered by all three, though two are known: only one index has that order, so the planner cannot take another.
    SELECT next.model, next.kind, next.organization_id
    FROM unnest(%(models)s::text[]) AS wanted (model) CROSS JOIN unnest(%(kinds)s::text[]) AS sort (kind)
    CROSS JOIN LATERAL (
        SELECT model, kind, organization_id FROM fleet_lease
        WHERE state = 'waiting' AND (model, kind) >= (wanted.model, sort.kind)
        ORDER BY model, kind, organization_id LIMIT 1
    ) next
    WHERE (next.model, next.kind) = (wanted.model, sort.kind)
    UNION ALL
    SELECT next.model, next.kind, next.organization_id
    FROM waiting CROSS JOIN LATERAL (
        SELECT model, kind, organization_id FROM fleet_lease
        WHERE state = 'waiting'
            AND (model, kind, organization_id) > (waiting.model, waiting.kind, waiting.organization_id)
        ORDER BY model, kind, organization_id LIMIT 1
    ) next
    WHERE (next.model, next.kind) = (waiting.model, waiting.kind)
),
running AS (
    SELECT organization_id, sum(estimated_tokens) AS tokens
    FROM fleet_lease WHERE state = 'leased' AND kind = ANY (%(kinds)s::text[]) GROUP BY organization_id
),
queue AS (
    SELECT waiting.model, waiting.kind, waiting.organization_id
    FROM waiting
    JOIN tenants_organization organization ON organization.id = waiting.organization_id
    LEFT JOIN running ON running.organization_id = waiting.organization_id
    CROSS JOIN LATERAL (
        SELECT deadline_at FROM fleet_lease
        WHERE state = 'waiting' AND model = waiting.model AND kind = waiting.kind
            AND organization_id = waiting.organization_id
        ORDER BY deadline_at, id LIMIT 1
    ) head
    WHERE organization.status = 'active' AND waiting.organization_id <> ALL (%(without)s::uuid[])
    ORDER BY coalesce(running.tokens, 0)::numeric / organization.weight, head.deadline_at, waiting.organization_id
),
picked AS (
    -- In the queue's order: a lateral query with a limit can only be a loop over it. One row is locked, no more.
    SELECT lease.id FROM queue CROSS JOIN LATERAL (
        SELECT id FROM fleet_lease
        WHERE state = 'waiting' AND model = queue.model AND kind = queue.kind
            AND organization_id = queue.organization_id AND not_before <= now()
        ORDER BY deadline_at, id LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) lease
    LIMIT 1
)
UPDATE fleet_lease SET
    state = 'leased', epoch = epoch + 1, node_id = %(node)s, has_progressed = false,
    leased_until = now() + make_interval(secs => %(hold)s)
FROM picked WHERE fleet_lease.id = picked.id
RETURNING fleet_lease.*
"""


def claim_lease(
    *, kinds: list[str], models: list[str], node_id: UUID | None, without: Sequence[UUID] = ()
) -> Lease | None:
    """Take the next piece of work of these kinds and models, or None.

    Work of the organisations ``without`` is left alone. Crosses tenants: hence the system role.
    """
    parameters = {
        "kinds": kinds,
        "models": models,
        "node": node_id,
        "hold": settings.LEASE_SECONDS,
        "without": list(without),
    }
    return next(iter(Lease.all_tenants.raw(_CLAIM, parameters)), None)
