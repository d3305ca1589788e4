"""Costs by day: every nano-dollar of the usage, in line items that add up."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from metering.models import UsageEvent
from tenants.scope import tenant_scope
from tests.platform.metering.test_usage import DAY, START, use
from tests.support.cast import MODEL, Cast, Member
from tests.support.model import BATCH, add_model


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")


def costs(member: Member, query: str = "") -> list[list[dict[str, Any]]]:
    """The results of each day."""
    answer = member.admin.get(f"/v1/organization/costs?start_time={START}&limit=2{query}")
    assert answer.status_code == 200, answer.content
    return [bucket["results"] for bucket in answer.json()["data"]]


def test_line_items_add_up_to_what_was_charged(cast: Cast) -> None:
    use(cast.alice, START, (1_000, 400, 30))
    use(cast.alice, START + 5, (7, 0, 1), job="", operation=UsageEvent.Operation.EMBEDDINGS)
    use(cast.alice, START + DAY, (1, 1, 0))
    with tenant_scope(cast.alice.organization.id):
        charged = list(UsageEvent.objects.order_by("occurred_at").values_list("cost_nanos", flat=True))
    items = [
        [(item["line_item"], item["quantity"], item["amount_nanos"]) for item in day]
        for day in costs(cast.alice, "&group_by[]=line_item")
    ]
    assert items == [
        [
            (f"{MODEL}, batch, cached_input_tokens", 400, 400 * BATCH.cached_input_nanos),
            (f"{MODEL}, batch, input_tokens", 600, 600 * BATCH.input_nanos),
            (f"{MODEL}, batch, output_tokens", 30, 30 * BATCH.output_nanos),
            (f"{MODEL}, input_tokens", 7, 7 * BATCH.input_nanos),
            (f"{MODEL}, output_tokens", 1, BATCH.output_nanos),
        ],
        [(f"{MODEL}, batch, cached_input_tokens", 1, BATCH.cached_input_nanos)],
    ]
    whole = costs(cast.alice)
    assert [[result["amount_nanos"] for result in day] for day in whole] == [[sum(charged[:2])], [charged[2]]]
    assert whole[0][0] == {
        "object": "organization.costs.result",
        "project_id": None, "user_id": None, "line_item": None, "api_key_id": None,
        "amount": {"currency": "usd", "value": sum(charged[:2]) / 1e9},
        "amount_nanos": sum(charged[:2]), "quantity": None, "quantity_unit": None,
    }  # fmt: skip


def test_the_same_as_csv(cast: Cast) -> None:
    use(cast.alice, START, (10, 4, 1))
    use(cast.alice, START + 300 * DAY, (1, 0, 0))
    query = f"start_time={START}&end_time={START + 301 * DAY}&group_by[]=line_item&format=csv"
    answer = cast.alice.admin.get(f"/v1/organization/costs?{query}")
    assert answer.status_code == 200
    names, *lines = csv.reader(io.StringIO(answer.getvalue().decode()))
    assert names == [
        "start_time", "end_time", "project_id", "user_id", "line_item", "api_key_id", "amount", "amount_nanos",
        "quantity", "quantity_unit",
    ]  # fmt: skip
    assert [(line[0][:10], line[4].split(", ")[-1], int(line[7]), int(line[8])) for line in lines] == [
        ("2026-01-01", "cached_input_tokens", 4 * BATCH.cached_input_nanos, 4),
        ("2026-01-01", "input_tokens", 6 * BATCH.input_nanos, 6),
        ("2026-01-01", "output_tokens", BATCH.output_nanos, 1),
        ("2026-10-28", "input_tokens", BATCH.input_nanos, 1),
    ]


def test_narrowed_and_grouped(cast: Cast) -> None:
    use(cast.alice, START, (10, 0, 1))
    (day, _) = costs(cast.alice, f"&line_items[]={MODEL}, batch, output_tokens&group_by[]=project_id")
    assert [(result["project_id"], result["amount_nanos"]) for result in day] == [
        (cast.alice.project.wire_id, BATCH.output_nanos)
    ]
    assert costs(cast.alice, "&line_items[]=x") == [[], []]
    assert costs(cast.alice, f"&project_ids[]={cast.charlie.project.wire_id}") == [[], []]
    assert costs(cast.charlie) == [[], []]


@pytest.mark.parametrize(
    ("query", "param"),
    [("&bucket_width=1h", "bucket_width"), ("&limit=181", "limit"), ("&group_by[]=model", "group_by")],
)
def test_a_query_that_makes_no_sense(cast: Cast, query: str, param: str) -> None:
    answer = cast.alice.admin.get(f"/v1/organization/costs?start_time={START}{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
