"""Usage by the million: how fast it is written, how fast the dashboards' questions are answered.

``python -m tests.bench.usage``, a process and services of its own; ``ROWS`` in the environment is how many events.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from tests.bench.control_plane import control_plane, run_apart

ROWS = int(os.environ.get("ROWS", "1000000"))
FLUSH = 500
"""Events of one statement, as a busy gateway would have gathered."""
DAYS, KEYS, MODELS = 30, 20, 5
DAY = 86_400
START = 1_767_225_600
"""The beginning of 2026."""
REPEATS = 10


def measure() -> dict[str, Any]:
    """Events a second, and milliseconds of each question (median, slowest); prints a table row each."""
    found: dict[str, Any] = run_apart("tests.bench.usage")
    print(f"| usage | {found['rows']:,} events of one organisation | {found['events_per_second']:,} written a second |")
    for name, times in found["questions"].items():
        print(f"| usage | {name} | median {times['median_ms']:.1f} ms | slowest {times['slowest_ms']:.1f} ms |")
    return found


def main() -> None:
    """Write them, then ask."""
    with control_plane() as home:
        from django.db import connections

        from common.database import OWNER, SYSTEM
        from metering.writer import INSERT, columns
        from tests.support.cast import make_member
        from tests.support.model import add_model

        add_model(home / "model")
        member = make_member("Alice")
        with connections[OWNER].cursor() as cursor:
            cursor.execute("SELECT metering_add_month('2026-01-01')")
        seconds = 0.0
        with connections[SYSTEM].cursor() as cursor:
            events = _events(member, ROWS)
            while part := list(islice(events, FLUSH)):
                started = time.perf_counter()
                cursor.execute(INSERT, columns(part))
                seconds += time.perf_counter() - started
        with connections[OWNER].cursor() as cursor:
            cursor.execute("ANALYZE metering_usageevent, metering_usagehour")
        found = {
            "rows": ROWS,
            "events_per_second": round(ROWS / seconds),
            "questions": {name: _time(ask) for name, ask in _questions(member.organization.id).items()},
        }
    print(json.dumps(found))


def _events(member: Any, count: int) -> Iterator[Any]:
    from catalog.models import Price
    from catalog.selectors import current_prices
    from metering.writer import NewEvent
    from tenants.services import create_api_key

    chance = random.Random(0)
    price = next(iter(current_prices(kind=Price.Kind.BATCH, completion_window="24h").values()))
    keys = [create_api_key(project=member.project, name=f"Key {n}", actor="bench").key.id for n in range(KEYS)]
    for number in range(count):
        tokens = chance.randrange(1, 2_000)
        yield NewEvent(
            source=f"bench:{number}",
            occurred_at=datetime.fromtimestamp(START + DAYS * DAY * number / count, UTC),
            organization_id=member.organization.id,
            project_id=member.project.id,
            api_key_id=chance.choice(keys),
            model=f"model-{chance.randrange(MODELS)}",
            price_id=price.id,
            input_tokens=tokens,
            output_tokens=tokens // 4,
            cost_nanos=tokens * price.input_nanos + tokens // 4 * price.output_nanos,
        )


def _questions(organization_id: Any) -> dict[str, Callable[[], object]]:
    from billing.costs import costs_by_bucket
    from metering.buckets import Span
    from metering.selectors import UsageFilter, usage_by_bucket
    from tenants.scope import tenant_scope

    # From the middle of an hour to the middle of an hour, as when somebody asks for what has been until now.
    month = Span(start=START + 1_234, end=START + DAYS * DAY - 1_234, width=DAY, limit=31, most=31)
    week = Span(start=START + 1_234, end=START + 7 * DAY, width=3_600, limit=168, most=168)
    hours = Span(start=START + DAY, end=START + DAY + 3_600, width=60, limit=60, most=60)

    def usage(span: Span, *group_by: str) -> Callable[[], object]:
        def ask() -> object:
            with tenant_scope(organization_id):
                return usage_by_bucket(
                    organization_id=organization_id, span=span, wanted=UsageFilter(), group_by=group_by
                )

        return ask

    def costs() -> object:
        with tenant_scope(organization_id):
            return costs_by_bucket(
                organization_id=organization_id, span=month, wanted=UsageFilter(), line_items=(), group_by=["line_item"]
            )

    return {
        "a month by day": usage(month),
        "a month by day and model": usage(month, "model"),
        "a month by day, key and model": usage(month, "api_key_id", "model"),
        "a week by hour and model": usage(week, "model"),
        "an hour by minute": usage(hours),
        "a month's costs by line item": costs,
    }


def _time(ask: Callable[[], object]) -> dict[str, float]:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        ask()
        times.append((time.perf_counter() - started) * 1_000)
    return {"median_ms": round(statistics.median(times), 1), "slowest_ms": round(max(times), 1)}


if __name__ == "__main__":
    main()
