"""Money is held before work, settled with it, and given back after it; nothing moves twice and nothing overdrawn."""

import logging

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from billing.selectors import find_discrepancies
from billing.services import place_hold, settle_hold
from common.errors import HoneError
from common.money import NANOS_PER_USD
from tenants.scope import tenant_scope
from tests.support.cast import Cast, Member
from tests.support.facts import count
from tests.support.ledger import books, grant, hold, release, settle, try_hold
from tests.support.tables import rows_of

USD = NANOS_PER_USD


def test_a_job_is_paid_from_its_hold_and_the_rest_comes_back(dora: Member) -> None:
    hold(dora, "batch_1", 4 * USD)
    assert books(dora) == (6 * USD, 4 * USD, 0)
    assert settle(dora, "batch_1", 1 * USD, key="1") == 1 * USD
    assert settle(dora, "batch_1", 2 * USD, key="2") == 2 * USD
    assert books(dora) == (6 * USD, 1 * USD, 3 * USD)
    assert release(dora, "batch_1") == 1 * USD
    assert books(dora) == (7 * USD, 0, 3 * USD)
    assert find_discrepancies() == []


def test_a_hold_grows_with_another_key_and_not_with_the_same(dora: Member) -> None:
    hold(dora, "batch_1", 1 * USD, key="first")
    hold(dora, "batch_1", 1 * USD, key="first")
    hold(dora, "batch_1", 2 * USD, key="more")
    assert books(dora) == (7 * USD, 3 * USD, 0)
    assert count("billing_hold") == 1


def test_without_credit_nothing_is_held_and_the_message_says_what_is_missing(dora: Member) -> None:
    hold(dora, "batch_1", 8 * USD)
    before = rows_of(dora.organization.id)
    with pytest.raises(HoneError) as caught:
        hold(dora, "batch_2", 2 * USD + 1)
    assert rows_of(dora.organization.id) == before
    assert caught.value.body() == {
        "error": {
            "message": "This needs $2.000000001 and $2 is available; add credit, then try again",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
    }
    assert (caught.value.kind.status, caught.value.headers()) == (429, {"x-should-retry": "false"})
    hold(dora, "batch_2", 2 * USD)
    assert books(dora) == (0, 10 * USD, 0)


def test_a_refused_hold_leaves_nothing_behind_in_a_transaction_that_goes_on(dora: Member) -> None:
    before = rows_of(dora.organization.id)
    with tenant_scope(dora.organization.id):
        with pytest.raises(HoneError, match="add credit"):
            place_hold(organization_id=dora.organization.id, job="batch_1", amount_nanos=11 * USD, key="1")
        assert settle_hold(organization_id=dora.organization.id, job="batch_1", amount_nanos=0, key="2") == 0
    assert rows_of(dora.organization.id) == before


def test_a_hold_that_was_placed_is_not_refused_when_it_is_repeated_without_credit(dora: Member) -> None:
    hold(dora, "batch_1", 10 * USD)
    before = rows_of(dora.organization.id)
    hold(dora, "batch_1", 10 * USD)
    release(dora, "batch_1")
    hold(dora, "batch_2", 10 * USD)
    hold(dora, "batch_1", 10 * USD)
    assert books(dora) == (0, 10 * USD, 0)
    assert rows_of(dora.organization.id)["tenants_auditevent"] == before["tenants_auditevent"]


def test_nothing_is_needed_for_nothing(dora: Member) -> None:
    before = rows_of(dora.organization.id)
    hold(dora, "batch_1", 0)
    assert settle(dora, "batch_1", 0, key="1") == 0
    assert release(dora, "batch_1", 0) == 0
    assert release(dora, "batch_1") == 0
    assert rows_of(dora.organization.id) == before


def test_a_settlement_never_exceeds_the_hold_and_says_so(dora: Member, caplog: pytest.LogCaptureFixture) -> None:
    hold(dora, "batch_1", 3 * USD)
    assert settle(dora, "batch_1", 2 * USD, key="1") == 2 * USD
    assert caplog.records == []
    assert settle(dora, "batch_1", 2 * USD, key="2") == 1 * USD
    assert settle(dora, "batch_1", 2 * USD, key="3") == 0
    assert books(dora) == (7 * USD, 0, 3 * USD)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "a hold did not cover the work" in caplog.records[0].getMessage()


def test_a_repeat_answers_as_the_first_time_and_moves_nothing(dora: Member) -> None:
    hold(dora, "batch_1", 5 * USD)
    assert settle(dora, "batch_1", 2 * USD, key="1") == 2 * USD
    assert release(dora, "batch_1", 1 * USD, key="part") == 1 * USD
    before = rows_of(dora.organization.id)
    assert settle(dora, "batch_1", 2 * USD, key="1") == 2 * USD
    assert release(dora, "batch_1", 1 * USD, key="part") == 1 * USD
    assert rows_of(dora.organization.id) == before
    assert release(dora, "batch_1") == 2 * USD
    closed = rows_of(dora.organization.id)
    assert release(dora, "batch_1") == 2 * USD
    assert rows_of(dora.organization.id) == closed


def test_a_part_that_is_released_is_at_most_what_is_left(dora: Member) -> None:
    hold(dora, "batch_1", 3 * USD)
    assert release(dora, "batch_1", 1 * USD, key="1") == 1 * USD
    assert release(dora, "batch_1", 5 * USD, key="2") == 2 * USD
    assert books(dora) == (10 * USD, 0, 0)
    hold(dora, "batch_1", 1 * USD, key="again")
    assert books(dora) == (9 * USD, 1 * USD, 0)


def test_a_closed_hold_takes_and_gives_nothing(dora: Member, caplog: pytest.LogCaptureFixture) -> None:
    hold(dora, "batch_1", 3 * USD)
    release(dora, "batch_1")
    before = rows_of(dora.organization.id)
    with pytest.raises(HoneError, match="has been released") as caught:
        hold(dora, "batch_1", 1 * USD, key="late")
    assert caught.value.code == "conflict"
    assert settle(dora, "batch_1", 1 * USD, key="late") == 0
    assert len(caplog.records) == 1
    assert release(dora, "batch_1", key="again") == 0
    assert rows_of(dora.organization.id) == before


def test_an_empty_hold_can_be_closed(dora: Member) -> None:
    hold(dora, "batch_1", 1 * USD)
    settle(dora, "batch_1", 1 * USD, key="1")
    assert release(dora, "batch_1") == 0
    assert try_hold(dora, "batch_1", 1, key="late") == "conflict"


def test_a_job_without_a_hold_pays_nothing(dora: Member, caplog: pytest.LogCaptureFixture) -> None:
    before = rows_of(dora.organization.id)
    assert settle(dora, "batch_1", 1 * USD, key="1") == 0
    assert len(caplog.records) == 1
    assert rows_of(dora.organization.id) == before


def test_a_key_stands_for_one_movement(dora: Member) -> None:
    hold(dora, "batch_1", 1 * USD)
    grant(dora, 1 * USD, key="k:batch_1")
    before = rows_of(dora.organization.id)
    for misuse in (
        lambda: hold(dora, "batch_1", 2 * USD),
        lambda: hold(dora, "batch_1", 1 * USD, key="k"),
        lambda: settle(dora, "batch_1", 1 * USD, key="hold"),
        lambda: release(dora, "batch_1", key="hold"),
        lambda: grant(dora, 1 * USD, key="hold:batch_1"),
    ):
        with pytest.raises(HoneError, match="has been used for another movement") as caught:
            misuse()
        assert caught.value.code == "conflict"
    assert rows_of(dora.organization.id) == before


def test_the_same_key_in_two_organisations_is_two_keys(cast: Cast) -> None:
    hold(cast.alice, "batch_1", 1 * USD)
    hold(cast.charlie, "batch_1", 2 * USD)
    settle(cast.charlie, "batch_1", 2 * USD, key="1")
    assert books(cast.alice) == (99 * USD, 1 * USD, 0)
    assert books(cast.charlie) == (98 * USD, 0, 2 * USD)


def test_what_happens_in_a_transaction_that_fails_has_not_happened(dora: Member) -> None:
    hold(dora, "batch_1", 3 * USD)
    before = rows_of(dora.organization.id)
    with tenant_scope(dora.organization.id):
        settle_hold(organization_id=dora.organization.id, job="batch_1", amount_nanos=1 * USD, key="1")
        place_hold(organization_id=dora.organization.id, job="batch_1", amount_nanos=1 * USD, key="2")
        transaction.set_rollback(True)
    assert rows_of(dora.organization.id) == before


def test_settling_is_one_statement(dora: Member) -> None:
    hold(dora, "batch_1", 3 * USD)
    with tenant_scope(dora.organization.id), CaptureQueriesContext(connection) as captured:
        settle_hold(organization_id=dora.organization.id, job="batch_1", amount_nanos=1 * USD, key="1")
    assert len(captured) == 1
