"""Leases by the thousand, for what must not depend on how many wait."""

from tests.support.cast import MODEL, Member
from tests.support.facts import change

_QUEUE = """
INSERT INTO fleet_lease (
    id, organization_id, kind, model, estimated_tokens, deadline_at, state, epoch, not_before, has_progressed,
    attempts, created_at, leased_until
)
SELECT gen_random_uuid(), %s, 'batch_shard', %s, 1000, now() + random() * interval '1 day', state, 0,
    now(), false, 0, now(), CASE WHEN state = 'leased' THEN now() + interval '1 minute' END
FROM generate_series(1, %s), (VALUES (%s)) AS given (state)
"""


def queue_leases(member: Member, count: int, *, state: str = "waiting") -> None:
    """So many shards of the member in this state, without anything behind them."""
    change(_QUEUE, member.organization.id, MODEL, count, state)
