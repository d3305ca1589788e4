"""What the database holds across tenants, and the changes to it that only time or an accident would make."""

from typing import Any

from django.db import connections

from common.database import OWNER
from fleet.models import Lease
from tests.support.tables import query


def query_owner(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of all tenants."""
    return query(sql, *parameters, using=OWNER)


def change(sql: str, *parameters: Any) -> int:
    """Change rows as the owner of the tables; how many."""
    with connections[OWNER].cursor() as cursor:
        cursor.execute(sql, parameters)
        changed: int = cursor.rowcount
    return changed


def count(table: str) -> int:
    """Rows of a table."""
    return int(query(f"SELECT count(*) FROM {table}", using=OWNER)[0][0])


def leases(kind: str = "batch_shard") -> list[Lease]:
    """All leases of a kind, oldest first."""
    return list(Lease.all_tenants.filter(kind=kind).order_by("id"))


def let_leases_run_out() -> None:
    """As if all holders had been silent for longer than their leases last."""
    change("UPDATE fleet_lease SET leased_until = now() - interval '1 second' WHERE state = 'leased'")


def let_back_off_pass() -> None:
    """As if the pause after a failure were over."""
    change("UPDATE fleet_lease SET not_before = now() - interval '1 second'")


def let_window_close(batch: Any) -> None:
    """As if the batch's completion window had passed."""
    change("UPDATE batches_batch SET expires_at = now() - interval '1 second' WHERE id = %s", uuid_of(batch))


def let_grace_pass() -> None:
    """As if holders had been asked to stop long ago."""
    change("UPDATE fleet_lease SET cancel_requested_at = now() - interval '1 hour' WHERE cancel_requested_at < now()")


def uuid_of(batch: Any) -> str:
    """The batch's id as the database has it."""
    return str(batch["id"]).removeprefix("batch_")


def accounts(batch: Any) -> dict[str, Any]:
    """Counters of the batch beside what rows and usage events add up to: all three must tell the same story."""
    counters = query(
        "SELECT total, pending, completed, failed, expired, cancelled, input_tokens, cached_tokens, output_tokens, "
        "cost_nanos FROM batches_batch WHERE id = %s",
        uuid_of(batch),
        using=OWNER,
    )[0]
    states = [f"count(*) FILTER (WHERE state = '{state}')" for state in _STATES]
    rows = query(
        f"SELECT count(*), {', '.join(states)}, coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0), "
        "coalesce(sum(output_tokens), 0), coalesce(sum(cost_nanos), 0) FROM batches_row WHERE batch_id = %s",
        uuid_of(batch),
        using=OWNER,
    )[0]
    events = query(
        "SELECT coalesce(sum(requests), 0), coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0), "
        "coalesce(sum(output_tokens), 0), coalesce(sum(cost_nanos), 0) FROM metering_usageevent WHERE job = %s",
        batch["id"],
        using=OWNER,
    )[0]
    return {"counters": _ints(counters), "rows": _ints(rows), "events": _ints(events)}


def accounts_agree(batch: Any) -> bool:
    """Whether they do."""
    found = accounts(batch)
    return bool(
        found["counters"] == found["rows"] and found["events"] == [found["counters"][2], *found["counters"][6:]]
    )


_STATES = ("pending", "completed", "failed", "expired", "cancelled")


def _ints(values: tuple[Any, ...]) -> list[int]:
    return [int(value) for value in values]
