"""What an engine's answer counts for, and what it costs to the nano-dollar."""

from typing import Any

import pytest
from django.db import IntegrityError, ProgrammingError, connection

from catalog.models import Price
from metering.services import Quantities, cost_of
from tenants.scope import tenant_scope
from tests.support.cast import Cast
from tests.support.facts import count
from tests.support.model import add_model
from tests.support.rows import jsonl, line, submit
from tests.support.worker import Worker, result, run_control

PRICE = Price(input_nanos=50, cached_input_nanos=25, output_nanos=100)


def usage(**members: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 100, "completion_tokens": 20, **members}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (usage(), (100, 0, 20, 0)),
        (usage(prompt_tokens_details={"cached_tokens": 60}), (100, 60, 20, 0)),
        (usage(prompt_tokens_details={"cached_tokens": 600}), (100, 100, 20, 0)),
        (usage(prompt_tokens_details=None), (100, 0, 20, 0)),
        (usage(completion_tokens_details={"reasoning_tokens": 7}), (100, 0, 20, 7)),
        (usage(completion_tokens_details={"reasoning_tokens": 70}), (100, 0, 20, 20)),
        (usage(completion_tokens=None), (100, 0, 0, 0)),
        (usage(prompt_tokens=-5), (0, 0, 20, 0)),
        (usage(prompt_tokens=True), (0, 0, 20, 0)),
        (usage(prompt_tokens="100"), (0, 0, 20, 0)),
        (usage(prompt_tokens=1.5), (0, 0, 20, 0)),
        (usage(prompt_tokens=2**31), (0, 0, 20, 0)),
        ({"usage": []}, (0, 0, 0, 0)),
        ({}, (0, 0, 0, 0)),
        ([], (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
    ],
    ids=str,
)
def test_usage_is_read_and_nonsense_counts_as_nothing(body: Any, expected: tuple[int, int, int, int]) -> None:
    found = Quantities.of_response(body)
    assert found == Quantities(1, *expected)


def test_the_cost_is_exact_and_cached_tokens_have_their_own_price() -> None:
    quantities = Quantities(requests=1, input_tokens=100, cached_tokens=60, output_tokens=7, reasoning_tokens=5)
    assert cost_of(quantities=quantities, price=PRICE) == 40 * 50 + 60 * 25 + 7 * 100


def test_the_cost_of_a_sum_is_the_sum_of_the_costs() -> None:
    parts = [Quantities(1, tokens, tokens // 3, tokens // 2, 0) for tokens in range(1, 200)]
    total = sum(parts, Quantities())
    assert cost_of(quantities=total, price=PRICE) == sum(cost_of(quantities=part, price=PRICE) for part in parts)


@pytest.fixture
def counted(cast: Cast, tmp_path: Any) -> None:
    """One usage event of Alice's."""
    add_model(tmp_path / "model")
    submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().lease().put(0, [result(1)])
    assert count("metering_usageevent") == 1


@pytest.mark.parametrize("change", ["UPDATE metering_usageevent SET cost_nanos = 0", "DELETE FROM metering_usageevent"])
def test_what_was_counted_cannot_be_changed(cast: Cast, counted: None, change: str) -> None:
    with (
        pytest.raises(ProgrammingError, match="permission denied"),
        tenant_scope(cast.alice.organization.id),
        connection.cursor() as cursor,
    ):
        cursor.execute(change)
    assert count("metering_usageevent") == 1


def test_one_thing_is_counted_once(cast: Cast, counted: None) -> None:
    with (
        pytest.raises(IntegrityError, match=r"metering_usageevent_\d{4}_\d{2}_pkey"),
        tenant_scope(cast.alice.organization.id),
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "INSERT INTO metering_usageevent (organization_id, project_id, api_key_id, source, job, model,"
            " price_id, requests, input_tokens, cached_tokens, output_tokens, cost_nanos, occurred_at) "
            "SELECT organization_id, project_id, api_key_id, source, job, model, price_id,"
            " requests, input_tokens, cached_tokens, output_tokens, cost_nanos, occurred_at FROM metering_usageevent"
        )
    assert count("metering_usageevent") == 1
