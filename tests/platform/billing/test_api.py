"""What an organisation reads of its money."""

from typing import Any

import pytest

from common.money import NANOS_PER_USD
from tests.support.cast import Member, make_member
from tests.support.ledger import adjust, hold, release, settle

USD = NANOS_PER_USD


@pytest.fixture
def busy(dora: Member) -> Member:
    """Two jobs, one of them at its end, and a correction."""
    hold(dora, "batch_1", 3 * USD)
    settle(dora, "batch_1", 1_500_000, key="1")
    hold(dora, "batch_2", 2 * USD)
    release(dora, "batch_2")
    adjust(dora, -1 * USD, key="k", reason="Credited twice")
    return dora


def entries(member: Member, query: str = "") -> list[dict[str, Any]]:
    answer = member.admin.get(f"/v1/organization/ledger{query}")
    assert answer.status_code == 200
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_the_balance_is_exact_in_both_units(busy: Member) -> None:
    assert busy.admin.get("/v1/organization/balance").json() == {
        "object": "balance",
        "currency": "usd",
        "available": "6",
        "held": "2.9985",
        "spent": "0.0015",
        "available_nanos": 6_000_000_000,
        "held_nanos": 2_998_500_000,
        "spent_nanos": 1_500_000,
    }


def test_an_organisation_without_any_movement_has_nothing(database: None) -> None:
    eve = make_member("Eve", credit_nanos=0)
    found = eve.admin.get("/v1/organization/balance").json()
    assert (found["available"], found["held_nanos"], found["spent"]) == ("0", 0, "0")
    assert entries(eve) == []


def test_the_ledger_has_every_movement_newest_first(busy: Member) -> None:
    found = entries(busy)
    assert [(entry["kind"], entry["debit"], entry["credit"], entry["amount"]) for entry in found] == [
        ("adjustment", "available", "granted", "1"),
        ("release", "held", "available", "2"),
        ("hold", "available", "held", "2"),
        ("settlement", "held", "spent", "0.0015"),
        ("hold", "available", "held", "3"),
        ("credit", "granted", "available", "10"),
    ]
    assert found[3].items() >= {
        "object": "ledger.entry", "amount_nanos": 1_500_000, "subject": "batch_1", "reason": None,
    }.items()  # fmt: skip
    assert found[0].keys() == {
        "id", "object", "created_at", "kind", "debit", "credit", "amount", "amount_nanos", "subject", "reason",
    }  # fmt: skip


def test_the_reason_of_a_correction_is_shown_and_its_author_is_not(busy: Member) -> None:
    answer = busy.admin.get("/v1/organization/ledger?limit=1")
    assert answer.json()["data"][0]["reason"] == "Credited twice"
    assert b"olga" not in answer.content


def test_the_ledger_is_paged(busy: Member) -> None:
    first = busy.admin.get("/v1/organization/ledger?limit=4").json()
    rest = busy.admin.get(f"/v1/organization/ledger?limit=4&after={first['last_id']}").json()
    assert (len(first["data"]), first["has_more"], len(rest["data"]), rest["has_more"]) == (4, True, 2, False)
    assert first["data"] + rest["data"] == entries(busy)
    assert entries(busy, "?order=asc") == entries(busy)[::-1]


def test_the_ledger_is_narrowed_down(busy: Member) -> None:
    assert [entry["subject"] for entry in entries(busy, "?kind=hold")] == ["batch_2", "batch_1"]
    assert [entry["kind"] for entry in entries(busy, "?subject=batch_1")] == ["settlement", "hold"]
    assert [entry["amount"] for entry in entries(busy, "?subject=batch_2&kind=release")] == ["2"]
    assert entries(busy, "?subject=batch_3") == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("kind=gift", "kind"),
        ("kind=", "kind"),
        ("subject=a%00b", "subject"),
        ("limit=0", "limit"),
        ("after=x", "after"),
    ],
)
def test_a_bad_filter_is_refused(dora: Member, query: str, param: str) -> None:
    answer = dora.admin.get(f"/v1/organization/ledger?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["code"] == "invalid_value"
