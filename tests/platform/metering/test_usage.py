"""Usage in buckets: exact sums, empty buckets, groups, filters, pages."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from catalog.models import Price
from catalog.selectors import current_prices
from metering.models import UsageEvent
from metering.services import Quantities, record_usage
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.cast import MODEL, Cast, Member
from tests.support.model import add_model
from tests.support.people import user_id

DAY = 86_400
START = 1_767_225_600
"""The beginning of 2026."""


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")


def use(
    member: Member,
    at: float,
    tokens: tuple[int, int, int] = (10, 4, 3),
    *,
    model: str = MODEL,
    job: str = "batch_1",
    operation: UsageEvent.Operation = UsageEvent.Operation.COMPLETIONS,
    key: ApiKey | None = None,
) -> None:
    """Input, cached and output tokens of two requests at a moment."""
    organization_id = member.organization.id
    price = next(iter(current_prices(kind=Price.Kind.BATCH, completion_window="24h").values()))
    with tenant_scope(organization_id):
        key = key or ApiKey.objects.get(name="First key")
        assert key.project_id is not None
        record_usage(
            organization_id=organization_id, project_id=key.project_id, api_key_id=key.id,
            source=f"test:{UsageEvent.objects.count()}:{organization_id}", job=job, operation=operation, model=model,
            price=price, quantities=Quantities(2, *tokens), occurred_at=datetime.fromtimestamp(at, UTC),
        )  # fmt: skip


def page(member: Member, query: str, *, operation: str = "completions") -> dict[str, Any]:
    answer = member.admin.get(f"/v1/organization/usage/{operation}?{query}")
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def counted(found: dict[str, Any], *names: str) -> list[list[Any]]:
    """Of each bucket the results' members of these names."""
    return [[tuple(result[name] for name in names) for result in bucket["results"]] for bucket in found["data"]]


def spans(found: dict[str, Any]) -> list[tuple[int, int]]:
    return [(bucket["start_time"], bucket["end_time"]) for bucket in found["data"]]


def test_sums_are_exact_and_empty_buckets_are_there(cast: Cast) -> None:
    for at in (START, START + 5, START + DAY - 0.000001, START + 2 * DAY, START + 3 * DAY):
        use(cast.alice, at, (2**40 + 1, 2**39, 7))
    found = page(cast.alice, f"start_time={START}&end_time={START + 3 * DAY}")
    assert spans(found) == [(START + n * DAY, START + (n + 1) * DAY) for n in range(3)]
    assert (found["object"], found["has_more"], found["next_page"]) == ("page", False, None)
    assert found["data"][0]["results"] == [
        {
            "object": "organization.usage.completions.result",
            "project_id": None, "user_id": None, "api_key_id": None, "model": None, "batch": None,
            "num_model_requests": 6,
            "input_tokens": 3 * (2**40 + 1), "input_cached_tokens": 3 * 2**39,
            "input_uncached_tokens": 3 * (2**40 + 1 - 2**39), "output_tokens": 21,
        }
    ]  # fmt: skip
    assert [len(bucket["results"]) for bucket in found["data"]] == [1, 0, 1]


def test_buckets_lie_on_the_clock_and_say_what_they_count(cast: Cast) -> None:
    for minute in (29, 30, 59, 60, 89, 90):
        use(cast.alice, START + minute * 60)
    found = page(cast.alice, f"start_time={START + 1_800}&end_time={START + 5_400}&bucket_width=1h")
    assert spans(found) == [(START + 1_800, START + 3_600), (START + 3_600, START + 5_400)]
    assert counted(found, "num_model_requests") == [[(4,)], [(4,)]]
    minutes = page(cast.alice, f"start_time={START + 1_800}&bucket_width=1m&limit=2")
    assert counted(minutes, "num_model_requests") == [[(2,)], []]
    assert spans(minutes)[1] == (START + 1_860, START + 1_920)


def test_pages_hold_every_bucket_once(cast: Cast) -> None:
    for hour in range(10):
        use(cast.alice, START + hour * 3_600 + 1_800)
    query = f"start_time={START + 1_800}&end_time={START + 35_000}&bucket_width=1h&limit=4"
    first = page(cast.alice, query)
    second = page(cast.alice, f"{query}&page={first['next_page']}")
    third = page(cast.alice, f"{query}&page={second['next_page']}")
    assert (first["has_more"], second["has_more"], third["has_more"], third["next_page"]) == (True, True, False, None)
    whole = page(cast.alice, query.replace("limit=4", "limit=168"))
    assert first["data"] + second["data"] + third["data"] == whole["data"]
    assert sum(len(bucket["results"]) for bucket in whole["data"]) == 10


@pytest.mark.parametrize(("width", "default"), [("1m", 60), ("1h", 24), ("1d", 7)])
def test_a_page_has_so_many_buckets(cast: Cast, width: str, default: int) -> None:
    found = page(cast.alice, f"start_time=0&bucket_width={width}")
    assert (len(found["data"]), found["has_more"]) == (default, True)


def test_the_end_is_now_unless_it_is_named(cast: Cast) -> None:
    now = int(datetime.now(UTC).timestamp())
    found = page(cast.alice, f"start_time={now - 10}")
    assert now <= spans(found)[-1][1] <= now + 60
    assert page(cast.alice, f"start_time={now + 3_600}")["data"] == []


def test_grouped_by_everything(cast: Cast) -> None:
    alice = cast.alice
    with tenant_scope(alice.organization.id):
        project = Project.objects.create(organization_id=alice.organization.id, name="Second")
        first = ApiKey.objects.get(name="First key")
    second = create_api_key(project=project, name="nobody's", actor="system").key
    use(alice, START, (10, 0, 1))
    use(alice, START, (20, 0, 2), key=second)
    use(alice, START, (40, 0, 4), key=second, model="other", job="")
    owner = user_id(alice, "alice@example.com")
    query = f"start_time={START}&limit=1"

    def by(*groups: str) -> Sequence[Any]:
        narrowed = "".join(f"&group_by[]={name}" for name in groups)
        return sorted(counted(page(alice, query + narrowed), *groups, "input_tokens")[0], key=lambda row: int(row[-1]))

    assert by("model") == [(MODEL, 30), ("other", 40)]
    assert by("batch") == [(True, 30), (False, 40)]
    assert by("project_id") == [(alice.project.wire_id, 10), (project.wire_id, 60)]
    assert by("api_key_id") == [(first.wire_id, 10), (second.wire_id, 60)]
    assert by("user_id") == [(owner, 10), (None, 60)]
    assert by("project_id", "model") == [
        (alice.project.wire_id, MODEL, 10), (project.wire_id, MODEL, 20), (project.wire_id, "other", 40),
    ]  # fmt: skip

    def only(narrowed: str) -> int:
        results = counted(page(alice, f"{query}&{narrowed}"), "input_tokens")[0]
        return int(results[0][0]) if results else 0

    assert [only("batch=true"), only("batch=false"), only("models[]=other"), only("models[]=x")] == [30, 40, 40, 0]
    assert only(f"project_ids[]={project.wire_id}") == 60
    assert only(f"api_key_ids[]={first.wire_id}&api_key_ids[]={second.wire_id}") == 70
    assert [only(f"user_ids[]={owner}"), only("user_ids[]=nobody")] == [10, 0]
    assert only(f"project_ids[]={project.wire_id}&models[]={MODEL}") == 20


def test_embeddings_are_counted_apart(cast: Cast) -> None:
    use(cast.alice, START, (10, 0, 0), operation=UsageEvent.Operation.EMBEDDINGS)
    use(cast.alice, START, (20, 0, 1))
    query = f"start_time={START}&limit=1"
    assert counted(page(cast.alice, query), "input_tokens") == [[(20,)]]
    embeddings = page(cast.alice, f"{query}&group_by[]=model", operation="embeddings")
    assert embeddings["data"][0]["results"] == [
        {
            "object": "organization.usage.embeddings.result", "project_id": None, "user_id": None,
            "api_key_id": None, "model": MODEL, "num_model_requests": 2, "input_tokens": 10,
        }
    ]  # fmt: skip


def test_a_stranger_counts_nothing_of_it(cast: Cast) -> None:
    use(cast.alice, START)
    assert counted(page(cast.charlie, f"start_time={START}&limit=1"), "input_tokens") == [[]]


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("", "missing_required_parameter", "start_time"), ("start_time=x", "invalid_value", "start_time"),
        ("start_time=5&end_time=5", "invalid_value", "end_time"),
        ("start_time=0&bucket_width=1w", "invalid_value", "bucket_width"),
        ("start_time=0&limit=32", "invalid_value", "limit"),
        ("start_time=0&group_by[]=service_tier", "invalid_value", "group_by"),
        ("start_time=0&batch=1", "invalid_value", "batch"), ("start_time=0&page=page_5_5", "invalid_value", "page"),
        ("start_time=0&page=page_1_999999999999", "invalid_value", "page"),
        ("start_time=0&format=xml", "invalid_value", "format"),
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense(cast: Cast, query: str, code: str, param: str) -> None:
    answer = cast.alice.admin.get(f"/v1/organization/usage/completions?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def csv_of(member: Member, query: str) -> list[list[str]]:
    answer = member.admin.get(f"/v1/organization/usage/completions?format=csv&{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.reader(io.StringIO(answer.getvalue().decode())))


def test_all_pages_at_once_as_csv(cast: Cast) -> None:
    for hour in (0, 1, 200):
        use(cast.alice, START + hour * 3_600 + 60)
    span = f"start_time={START}&end_time={START + 201 * 3_600}&bucket_width=1h&limit=1"
    names, *lines = csv_of(cast.alice, f"{span}&group_by[]=model")
    assert names == [
        "start_time", "end_time", "project_id", "user_id", "api_key_id", "model", "batch", "num_model_requests",
        "input_tokens", "input_cached_tokens", "input_uncached_tokens", "output_tokens",
    ]  # fmt: skip
    assert [line[0] for line in lines] == [
        "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00", "2026-01-09T08:00:00+00:00",
    ]  # fmt: skip
    assert lines[0][1:] == ["2026-01-01T01:00:00+00:00", "", "", "", MODEL, "", "2", "10", "4", "6", "3"]
    assert csv_of(cast.charlie, f"start_time={START}") == [names]


def test_csv_has_its_limit(cast: Cast) -> None:
    answer = cast.alice.admin.get("/v1/organization/usage/completions?format=csv&start_time=0&bucket_width=1m")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "start_time")
