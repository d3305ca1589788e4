"""Operators give credit and correct balances: with a reason, an author and an audit row, once per key."""

import getpass
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from billing import watchers
from billing.models import Posting
from common.errors import HoneError
from common.money import MAX_NANOS, NANOS_PER_USD
from tenants.models import AuditEvent
from tenants.scope import TenantScopeError, current_organization
from tests.support.cast import Member
from tests.support.ledger import adjust, books, grant, hold
from tests.support.tables import rows_of

USD = NANOS_PER_USD


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """Organisations whose watchers were called, after one that fails."""
    calls: list[UUID] = []

    def fail(organization_id: UUID) -> None:
        raise RuntimeError("a watcher with a bug")

    def note(organization_id: UUID) -> None:
        with pytest.raises(TenantScopeError):
            current_organization()
        calls.append(organization_id)

    monkeypatch.setattr(watchers, "_watchers", [])
    watchers.on_credit(fail)
    watchers.on_credit(note)
    return calls


def run(command: str, member: Member, **options: Any) -> str:
    out = StringIO()
    call_command(command, member.organization.wire_id, **{"reason": "Invoice 17", **options}, stdout=out)
    return out.getvalue()


def audit(member: Member) -> list[tuple[str, str, str, int, str]]:
    events = AuditEvent.all_tenants.filter(organization_id=member.organization.id, actor__startswith="operator:")
    return [
        (event.actor, event.action, event.subject, event.details["amount_nanos"], event.details["reason"])
        for event in events.order_by("id")
    ]


def test_credit_can_be_spent_and_is_audited(dora: Member) -> None:
    printed = run("grant_credit", dora, usd="25.5", author="olga")
    posting = Posting.all_tenants.latest("id")
    assert printed == (
        f"{posting.wire_id}: {dora.organization.wire_id} has $35.5 available, $0 held, $0 spent\n"
    )  # fmt: skip
    assert (posting.kind, posting.debit, posting.credit) == ("credit", "granted", "available")
    assert (posting.amount_nanos, posting.reason, posting.actor) == (25_500_000_000, "Invoice 17", "operator:olga")
    assert audit(dora) == [
        ("operator:olga", "credit.granted", dora.organization.wire_id, 25_500_000_000, "Invoice 17")
    ]  # fmt: skip


def test_a_balance_is_corrected_either_way_and_audited(dora: Member) -> None:
    hold(dora, "batch_1", 4 * USD)
    assert "$9.5 available, $4 held" in run("adjust_balance", dora, usd="3.50", author="olga")
    assert "$0 available, $4 held" in run("adjust_balance", dora, usd="-9.5", author="olga")
    assert [(action, amount) for _, action, _, amount, _ in audit(dora)] == [
        ("balance.adjusted", 3_500_000_000), ("balance.adjusted", -9_500_000_000),
    ]  # fmt: skip


def test_whoever_is_at_the_terminal_is_the_author_unless_told_otherwise(dora: Member) -> None:
    run("grant_credit", dora, usd="1")
    assert audit(dora)[0][0] == f"operator:{getpass.getuser()}"


def test_with_a_key_money_moves_once_however_often_the_command_runs(dora: Member) -> None:
    first = run("grant_credit", dora, usd="5", key="ticket 9")
    after = rows_of(dora.organization.id)
    assert run("grant_credit", dora, usd="5", key="ticket 9") == first
    assert rows_of(dora.organization.id) == after
    with pytest.raises(CommandError, match="has been used for another movement"):
        run("grant_credit", dora, usd="6", key="ticket 9")
    assert rows_of(dora.organization.id) == after
    assert run("grant_credit", dora, usd="5") != first
    assert books(dora) == (20 * USD, 0, 0)


def test_more_than_is_available_cannot_be_taken_away(dora: Member) -> None:
    hold(dora, "batch_1", 4 * USD)
    before = rows_of(dora.organization.id)
    with pytest.raises(CommandError, match=r"This needs \$6.01 and \$6 is available"):
        run("adjust_balance", dora, usd="-6.01")
    assert rows_of(dora.organization.id) == before


@pytest.mark.parametrize("command", ["grant_credit", "adjust_balance"])
@pytest.mark.parametrize(
    "options",
    [
        {"usd": "0"},
        {"usd": "--1"},
        {"usd": "+1"},
        {"usd": "1e3"},
        {"usd": "0.0000000001"},
        {"usd": "9999999999"},
        {"usd": "1", "reason": ""},
        {"usd": "1", "reason": " "},
        {"usd": "1", "reason": "a\0b"},
        {"usd": "1", "reason": "a" * 501},
        {"usd": "1", "key": "a" * 200},
        {"usd": "1", "key": "a\nb"},
        {"usd": "1", "author": "a" * 80},
    ],
    ids=str,
)
def test_what_makes_no_sense_changes_nothing(dora: Member, command: str, options: dict[str, str]) -> None:
    before = rows_of(dora.organization.id)
    with pytest.raises(CommandError):
        run(command, dora, **options)
    assert rows_of(dora.organization.id) == before


def test_credit_is_never_negative(dora: Member) -> None:
    before = rows_of(dora.organization.id)
    with pytest.raises(CommandError, match="dollars"):
        run("grant_credit", dora, usd="-1")
    assert rows_of(dora.organization.id) == before


@pytest.mark.parametrize("wire_id", ["org_0", f"org_{'0' * 32}", "nobody", ""])
def test_a_stranger_of_an_organisation_gets_nothing(dora: Member, wire_id: str) -> None:
    before = rows_of(dora.organization.id)
    for command in ("grant_credit", "adjust_balance"):
        with pytest.raises(CommandError, match="No such organisation"):
            call_command(command, wire_id, usd="1", reason="r")
    assert rows_of(dora.organization.id) == before


def test_a_ledger_never_holds_more_than_its_numbers_can(dora: Member) -> None:
    before = rows_of(dora.organization.id)
    for move in (grant, adjust):
        with pytest.raises(HoneError, match=r"A ledger holds at most \$9223372036.854775807"):
            move(dora, MAX_NANOS - 10 * USD + 1, key="k")
    assert rows_of(dora.organization.id) == before
    grant(dora, MAX_NANOS - 10 * USD, key="k")
    assert books(dora) == (MAX_NANOS, 0, 0)


def test_who_waits_for_money_is_told_after_the_commit(
    dora: Member, told: list[UUID], caplog: pytest.LogCaptureFixture
) -> None:
    grant(dora, 1, key="1")
    adjust(dora, 1, key="2")
    assert told == [dora.organization.id] * 2
    assert [record.getMessage().count("a watcher of credit failed") for record in caplog.records] == [1, 1]


def test_nobody_is_told_when_nothing_has_come_in(dora: Member, told: list[UUID]) -> None:
    grant(dora, 1, key="1")
    told.clear()
    grant(dora, 1, key="1")
    adjust(dora, -1, key="2")
    with pytest.raises(HoneError):
        adjust(dora, -11 * USD, key="3")
    assert told == []
