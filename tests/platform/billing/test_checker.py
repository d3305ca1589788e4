"""The checker finds what cannot happen, once it has happened."""

import logging
from io import StringIO
from itertools import chain

import pytest
from django.core.management import CommandError, call_command

from billing.selectors import find_discrepancies
from billing.tasks import check
from common.money import NANOS_PER_USD
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.ledger import guards_off, hold, release, settle

USD = NANOS_PER_USD
DAMAGE = {
    "a balance": (
        "billing_account",
        "UPDATE billing_account SET balance_nanos = balance_nanos + 5 WHERE kind = 'available'",
        [
            "account available: its balance is $6.000000005, its postings $6",
            "all accounts: the sum of balances is $0.000000005, debits less credits $0",
        ],
    ),
    "money that changed its account": (
        "billing_account",
        "UPDATE billing_account SET balance_nanos = 4000000000 - balance_nanos WHERE kind IN ('spent', 'held')",
        [
            "account held: its balance is $3, its postings $1",
            "account held: its balance is $3, what open holds have left $1",
            "account spent: its balance is $1, its postings $3",
            "account spent: its balance is $1, all settlements $3",
        ],
    ),
    "a hold": (
        "billing_hold",
        "UPDATE billing_hold SET remaining_nanos = 2000000000 WHERE job = 'batch_1'",
        [
            "account held: its balance is $1, what open holds have left $2",
            "hold of batch_1: what it has left is $2, its postings $1",
        ],
    ),
    "a lost hold": (
        "billing_hold",
        "DELETE FROM billing_hold WHERE job = 'batch_1'",
        [
            "account held: its balance is $1, what open holds have left $0",
            "hold of batch_1: what it has left is $0, its postings $1",
        ],
    ),
    "a lost posting": (
        "billing_posting",
        "DELETE FROM billing_posting WHERE kind = 'settlement' AND subject = 'batch_1'",
        [
            "account held: its balance is $1, its postings $3",
            "account spent: its balance is $3, all settlements $1",
            "account spent: its balance is $3, its postings $1",
            "hold of batch_1: what it has left is $1, its postings $3",
        ],
    ),
    "lost accounts": (
        "billing_account",
        "DELETE FROM billing_account WHERE kind IN ('spent', 'available')",
        [
            "account available: its balance is $0, its postings $6",
            "account spent: its balance is $0, all settlements $3",
            "account spent: its balance is $0, its postings $3",
            "all accounts: the sum of balances is $-9, debits less credits $0",
        ],
    ),
}


@pytest.fixture
def busy(dora: Member) -> Member:
    """One job has ended and another holds a dollar; $6 are available, $3 spent."""
    hold(dora, "batch_1", 3 * USD)
    hold(dora, "batch_2", 2 * USD)
    settle(dora, "batch_1", 2 * USD, key="1")
    settle(dora, "batch_2", 1 * USD, key="1")
    release(dora, "batch_2")
    return dora


@pytest.fixture(params=DAMAGE)
def damage(request: pytest.FixtureRequest, busy: Member) -> list[str]:
    """Do some; what there is to find."""
    table, statement, found = DAMAGE[request.param]
    with guards_off(table):
        assert change(statement) > 0
    return sorted(f"{busy.organization.wire_id}, {line}" for line in found)


def test_what_is_wrong_is_found_and_named(damage: list[str]) -> None:
    assert sorted(find_discrepancies()) == damage


def test_one_organisation_can_be_looked_at_alone(busy: Member, cast: Cast) -> None:
    with guards_off("billing_account"):
        change("UPDATE billing_account SET balance_nanos = balance_nanos + 1")
    everywhere = find_discrepancies()
    found = [find_discrepancies(organization_id=member.organization.id) for member in (busy, cast.alice, cast.charlie)]
    assert all(found)
    assert sorted(everywhere) == sorted(chain(*found))


def test_the_command_says_what_it_has_proved(busy: Member, cast: Cast) -> None:
    out = StringIO()
    call_command("check_ledger", stdout=out)
    assert out.getvalue() == "The ledgers are right: 3 organisations, 8 postings\n"


def test_the_command_fails_and_prints_what_is_wrong(damage: list[str]) -> None:
    out = StringIO()
    with pytest.raises(CommandError, match=rf"^{len(damage)} discrepancies in ") as caught:
        call_command("check_ledger", stdout=out)
    assert caught.value.returncode == 1
    assert sorted(out.getvalue().splitlines()) == damage


def test_every_night_what_is_wrong_is_logged(damage: list[str], caplog: pytest.LogCaptureFixture) -> None:
    check()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * len(damage)
    logged = " ".join(record.getMessage() for record in caplog.records)
    assert [line for line in damage if line not in logged] == []


def test_a_night_without_trouble_logs_nothing(busy: Member, caplog: pytest.LogCaptureFixture) -> None:
    check()
    assert caplog.records == []
