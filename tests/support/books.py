"""What a running instance's database and files say about batches: the accounts, read from outside."""

from collections.abc import Sequence
from typing import Any

import psycopg
from openai.types import Batch

from infra.dev.instance import Instance
from tests.e2e.jobs import OPEN, output
from tests.support.customers import Customer
from tests.support.waiting import wait_until

_COUNTERS = "pending, completed, failed, input_tokens, cached_tokens, output_tokens, cost_nanos"


def query(instance: Instance, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of all tenants, as the system's role."""
    with psycopg.connect(instance.environment["DATABASE_SYSTEM_URL"], connect_timeout=5) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def assert_accounts_agree(instance: Instance, customer: Customer, batch: Batch) -> Batch:
    """A completed batch has every line exactly once, in input order, and whoever counts it counts the same.

    Output file = batch object = counters = rows = usage events = ledger. Returns the batch as it is now.
    """
    client = customer.client
    done = client.batches.retrieve(batch.id)
    assert done.status == "completed", done
    asked = [line["custom_id"] for line in output(client, done.input_file_id)]
    answers, failures = output(client, done.output_file_id), output(client, done.error_file_id)
    answered, failed = ([line["custom_id"] for line in lines] for lines in (answers, failures))
    assert sorted(answered + failed) == sorted(asked)
    is_answered = set(answered)
    assert answered == [custom_id for custom_id in asked if custom_id in is_answered]
    assert failed == [custom_id for custom_id in asked if custom_id not in is_answered]
    usages = [answer["response"]["body"]["usage"] for answer in answers]
    tokens = sum(usage["prompt_tokens"] for usage in usages), sum(usage["completion_tokens"] for usage in usages)

    assert done.request_counts is not None
    assert done.usage is not None
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(asked), len(answers), len(failures))
    assert (done.usage.input_tokens, done.usage.output_tokens) == tokens
    cached = done.usage.input_tokens_details.cached_tokens
    number = batch.id.removeprefix("batch_")
    (counters,) = query(instance, f"SELECT {_COUNTERS} FROM batches_batch WHERE id = %s", number)
    cost = counters[-1]
    story = [0, len(answers), len(failures), tokens[0], cached, tokens[1], cost]
    assert [int(value) for value in counters] == story
    assert _sums(instance, "batches_row WHERE batch_id = %s", number, states=True) == story
    events = _sums(instance, "metering_usageevent WHERE job = %s", batch.id)
    assert events == [len(answers), *story[3:]]
    assert (cost > 0) == bool(answers)
    assert _money(instance, batch.id) == (cost, 0)
    return done


def assert_the_ledger_is_right(instance: Instance) -> None:
    """Debits equal credits, every balance is what its postings say, and no job that has ended holds anything."""
    instance.manage("check_ledger")  # raises when it finds something
    held = query(instance, "SELECT coalesce(sum(remaining_nanos), 0) FROM billing_hold")
    assert held == [(0,)]


def assert_nothing_is_stuck(instance: Instance, *, seconds: float = 60) -> None:
    """Within that time no lease is open, and no batch on its way."""
    leases = "SELECT count(*) FROM fleet_lease WHERE state IN ('waiting', 'leased')"
    batches = f"SELECT count(*) FROM batches_batch WHERE status IN {OPEN}"
    wait_until(lambda: query(instance, leases) + query(instance, batches) == [(0,), (0,)], seconds=seconds)


def _money(instance: Instance, job: str) -> tuple[int, int]:
    """What the ledger says that a job was charged and still holds, in nano-USD."""
    settled = "SELECT coalesce(sum(amount_nanos), 0) FROM billing_posting WHERE subject = %s AND kind = 'settlement'"
    held = "SELECT coalesce(sum(remaining_nanos), 0) FROM billing_hold WHERE job = %s"
    return int(query(instance, settled, job)[0][0]), int(query(instance, held, job)[0][0])


def _sums(instance: Instance, source: str, key: str, *, states: bool = False) -> Sequence[int]:
    counted = ["pending", "completed", "failed"]
    counts = [f"count(*) FILTER (WHERE state = '{state}')" for state in counted] if states else ["sum(requests)"]
    sums = [f"sum({column})" for column in ("input_tokens", "cached_tokens", "output_tokens", "cost_nanos")]
    columns = ", ".join(f"coalesce({column}, 0)" for column in [*counts, *sums])
    ((*values,),) = query(instance, f"SELECT {columns} FROM {source}", key)
    return [int(value) for value in values]
