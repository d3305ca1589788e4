"""What usage comes to by the hour: always the sums of the events, and what whole hours are read from."""

import random
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import ProgrammingError, connection, connections

from common.database import OWNER, SYSTEM
from metering.buckets import HOUR, Span
from metering.models import UsageEvent
from metering.selectors import UsageFilter, usage_by_bucket
from metering.services import add_partitions
from tenants.scope import tenant_scope
from tests.platform.metering.test_usage import START, use
from tests.support.cast import Cast, Member
from tests.support.facts import change, query_owner
from tests.support.model import add_model
from tests.support.tables import query
from tests.support.threads import at_once

SUMS = "sum(requests), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(cost_nanos)"
KEYS = "organization_id, project_id, api_key_id, operation, model, price_id"


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")


def of_hours() -> list[tuple[Any, ...]]:
    return query_owner(
        f"SELECT hour, is_batch, {KEYS}, {SUMS} FROM metering_usagehour GROUP BY 1, 2, {KEYS} ORDER BY 1, 2, 3"
    )


def of_events() -> list[tuple[Any, ...]]:
    return query_owner(
        f"SELECT date_trunc('hour', occurred_at, 'UTC'), job <> '', {KEYS}, {SUMS} FROM metering_usageevent"
        f" GROUP BY 1, 2, {KEYS} ORDER BY 1, 2, 3"
    )


def repeat(member: Member) -> int:
    """Write all events of a member once more, as one who does not know whether they were written; how many were."""
    with tenant_scope(member.organization.id), connection.cursor() as cursor:
        cursor.execute("INSERT INTO metering_usageevent SELECT * FROM metering_usageevent ON CONFLICT DO NOTHING")
        written: int = cursor.rowcount
    return written


def test_hours_are_the_sums_of_the_events(cast: Cast) -> None:
    for at in (0, 1, HOUR - 0.000001, HOUR, 30 * 24 * HOUR, 400 * 24 * HOUR):
        use(cast.alice, START + at, (2**40, 5, 3))
        use(cast.charlie, START + at, job="")
    use(cast.alice, START, operation=UsageEvent.Operation.EMBEDDINGS)
    assert of_hours() == of_events()
    assert len(of_hours()) == 9
    assert repeat(cast.alice) == 0
    assert of_hours() == of_events()


def test_two_that_add_to_one_hour_both_count(cast: Cast) -> None:
    def work(number: int) -> None:
        for _ in range(10):
            use(cast.alice if number % 2 else cast.charlie, START + number)

    at_once(*(partial(work, number) for number in range(6)))
    assert of_hours() == of_events()
    assert [row[-5] for row in of_hours()] == [60, 60]


@pytest.mark.parametrize("width", [60, HOUR, 24 * HOUR])
def test_any_span_is_counted_exactly(cast: Cast, width: int) -> None:
    chance = random.Random(width)
    moments = [START + chance.choice([HOUR, 60, 1]) * chance.randrange(100) for _ in range(60)]
    for number, moment in enumerate(moments):
        use(cast.alice, moment, (2**number % 1_000_003, 0, 0))
    tokens = [2**number % 1_000_003 for number in range(len(moments))]
    for _ in range(60):
        start = START + chance.randrange(-10, 100 * HOUR)
        end = start + chance.choice([1, 59, 61, HOUR, 3 * HOUR, 100 * HOUR])
        span = Span(start=start, end=end, width=width, limit=10_000, most=10_000)
        expected: dict[int, int] = {}
        for moment, count in zip(moments, tokens, strict=True):
            if start <= moment < end:
                bucket = moment // width * width
                expected[bucket] = expected.get(bucket, 0) + count
        with tenant_scope(cast.alice.organization.id):
            found = usage_by_bucket(
                organization_id=cast.alice.organization.id, span=span, wanted=UsageFilter(), group_by=()
            )
        assert {one.bucket: one.input_tokens for one in found} == expected, span


def test_whole_hours_are_read_from_the_sums(cast: Cast) -> None:
    use(cast.alice, START + 5, (10, 0, 0))
    use(cast.alice, START + HOUR, (20, 0, 0))
    change("DELETE FROM metering_usageevent")
    span = Span(start=START, end=START + 2 * HOUR, width=HOUR, limit=10, most=10)
    with tenant_scope(cast.alice.organization.id):
        found = usage_by_bucket(
            organization_id=cast.alice.organization.id, span=span, wanted=UsageFilter(), group_by=()
        )
    assert [one.input_tokens for one in found] == [10, 20]


@pytest.mark.parametrize("role", ["default", SYSTEM, OWNER])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE metering_usagehour SET cost_nanos = 0",
        "DELETE FROM metering_usagehour",
        "TRUNCATE metering_usagehour",
        "INSERT INTO metering_usagehour TABLE metering_usagehour ON CONFLICT DO NOTHING",
    ],
)
def test_only_an_event_adds_to_an_hour(database: None, role: str, statement: str) -> None:
    with connections[role].cursor() as cursor, pytest.raises(ProgrammingError, match="permission denied"):
        cursor.execute(statement)


def partition_of(at: int) -> str:
    rows = query_owner(
        "SELECT tableoid::regclass::text FROM metering_usageevent WHERE occurred_at = to_timestamp(%s)", at
    )
    assert len(set(rows)) == 1
    name: str = rows[0][0]
    return name


def test_there_is_a_partition_for_each_month_to_come(cast: Cast) -> None:
    add_partitions()
    add_partitions()
    wanted = query(
        "SELECT 'metering_usageevent_' || to_char(now() AT TIME ZONE 'UTC' + make_interval(months => n), 'YYYY_MM')"
        " FROM generate_series(0, 2) n"
    )
    there = query("SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r'")
    assert set(wanted) <= set(there)
    now = int(datetime.now(UTC).timestamp())
    use(cast.alice, now)
    assert (partition_of(now),) == wanted[0]


def test_a_new_partition_takes_over_what_lay_elsewhere(cast: Cast) -> None:
    use(cast.alice, START, (10, 0, 0))
    use(cast.charlie, START, (20, 0, 0))
    use(cast.alice, START - 1, (40, 0, 0))
    before = of_hours()
    assert partition_of(START) == "metering_usageevent_other"
    try:
        at_once(*[partial(query, "SELECT metering_add_month('2026-01-15')", using=SYSTEM)] * 3)
        assert partition_of(START) == "metering_usageevent_2026_01"
        assert partition_of(START - 1) == "metering_usageevent_other"
        assert of_hours() == before == of_events()
        assert repeat(cast.alice) == 0
    finally:
        change("DROP TABLE metering_usageevent_2026_01")
