"""The ledger under fire: real connections at the same time, and the books are right to the nano-dollar."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest

from billing.selectors import find_discrepancies
from billing.services import place_hold, release_hold, settle_hold
from common.errors import HoneError
from common.money import NANOS_PER_USD
from tenants.scope import tenant_scope
from tests.support.cast import Cast, Member, make_member
from tests.support.facts import count
from tests.support.ledger import adjust, books, grant, hold, release, settle, try_hold
from tests.support.threads import at_once

USD = NANOS_PER_USD
THREADS = 20


@pytest.fixture(autouse=True)
def right_in_the_end(database: None) -> Any:
    """Whatever was done at once, the checker finds nothing."""
    yield
    assert find_discrepancies() == []


def one_after_the_other(*calls: Callable[[], Any]) -> Callable[[], list[Any]]:
    return lambda: [call() for call in calls]


def test_of_a_hundred_at_once_those_that_can_be_paid_run(dora: Member) -> None:
    def attempt(thread: int) -> list[str]:
        return [try_hold(dora, f"batch_{thread}_{number}", 1 * USD) for number in range(100 // THREADS)]

    outcomes = at_once(*(partial(attempt, thread) for thread in range(THREADS)))
    assert Counter(chain(*outcomes)) == {"held": 10, "insufficient_quota": 90}
    assert books(dora) == (0, 10 * USD, 0)
    assert (count("billing_hold"), count("billing_posting")) == (10, 11)


def test_one_key_from_many_threads_moves_money_once(dora: Member) -> None:
    at_once(*[lambda: hold(dora, "batch_1", 4 * USD)] * 8)
    assert books(dora) == (6 * USD, 4 * USD, 0)
    assert at_once(*[lambda: settle(dora, "batch_1", 1 * USD, key="1")] * 8) == [1 * USD] * 8
    assert at_once(*[lambda: release(dora, "batch_1", 1 * USD, key="part")] * 8) == [1 * USD] * 8
    assert len(set(at_once(*[lambda: grant(dora, 2 * USD, key="paid")] * 8))) == 1
    assert len(set(at_once(*[lambda: adjust(dora, -1 * USD, key="oops")] * 8))) == 1
    assert at_once(*[lambda: release(dora, "batch_1")] * 8) == [2 * USD] * 8
    assert books(dora) == (10 * USD, 0, 1 * USD)
    assert count("tenants_auditevent") == 3 + 1 + 2  # as created, opening credit, one grant, one adjustment


def test_the_first_postings_of_an_organisation_open_its_accounts_once(database: None) -> None:
    eve = make_member("Eve", credit_nanos=0)
    assert count("billing_account") == 0
    same = [lambda: grant(eve, 1 * USD, key="paid")] * 6
    at_once(*same, *(partial(grant, eve, 1 * USD, key=f"paid {number}") for number in range(6)))
    assert books(eve) == (7 * USD, 0, 0)
    assert (count("billing_account"), count("billing_posting")) == (4, 7)


def test_everything_at_once_on_one_hold_neither_deadlocks_nor_loses_money(dora: Member) -> None:
    def work(thread: int) -> int:
        spent = 0
        for number in range(6):
            key = f"{thread}.{number}"
            hold(dora, "batch_1", 20, key=key)
            spent += settle(dora, "batch_1", 15, key=f"s{key}")
            release(dora, "batch_1", 5, key=f"r{key}")
            grant(dora, 3, key=f"g{key}")
            adjust(dora, -3, key=f"a{key}")
        return spent

    hold(dora, "batch_1", 1 * USD)
    spent = sum(at_once(*(partial(work, thread) for thread in range(8))))
    assert spent == 8 * 6 * 15
    assert books(dora) == (9 * USD - spent, 1 * USD, spent)


def test_jobs_begin_work_and_end_beside_each_other(dora: Member) -> None:
    def life(job: str) -> list[Any]:
        return one_after_the_other(
            partial(hold, dora, job, 100),
            *(partial(settle, dora, job, 7, key=f"{number}") for number in range(10)),
            partial(hold, dora, job, 50, key="grow"),
            partial(release, dora, job),
        )()

    outcomes = at_once(*(partial(life, f"batch_{number}") for number in range(8)))
    assert outcomes == [[None, *[7] * 10, None, 80]] * 8
    assert books(dora) == (10 * USD - 8 * 70, 0, 8 * 70)


def test_transactions_that_move_several_times_do_not_block_each_other(dora: Member) -> None:
    organization_id = dora.organization.id

    def grow_and_pay(job: str, number: int) -> None:
        with tenant_scope(organization_id):
            place_hold(organization_id=organization_id, job=job, amount_nanos=50, key=f"{job} {number} hold")
            settle_hold(organization_id=organization_id, job=job, amount_nanos=20, key=f"{job} {number} 1")

    def pay_and_give_back(job: str, number: int) -> None:
        with tenant_scope(organization_id):
            settle_hold(organization_id=organization_id, job=job, amount_nanos=20, key=f"{job} {number} 2")
            release_hold(organization_id=organization_id, job=job, amount_nanos=10, key=f"{job} {number} rest")

    hold(dora, "batch_1", 1_000)
    hold(dora, "batch_2", 1_000)
    threads = [
        one_after_the_other(*(partial(act, job, 10 * thread + number) for number in range(10)))
        for act in (grow_and_pay, pay_and_give_back)
        for job in ("batch_1", "batch_2")
        for thread in range(2)
    ]
    at_once(*threads)
    grown, given_back, spent = 40 * 50, 40 * 10, 80 * 20
    held = 2 * 1_000 + grown - given_back - spent
    assert books(dora) == (10 * USD - held - spent, held, spent)


def test_more_work_at_once_than_a_hold_covers_is_paid_up_to_the_hold(dora: Member) -> None:
    hold(dora, "batch_1", 100)
    settled = at_once(*(partial(settle, dora, "batch_1", 15, key=f"{number}") for number in range(10)))
    assert Counter(settled) == {15: 6, 10: 1, 0: 3}
    assert books(dora) == (10 * USD - 100, 0, 100)


def test_a_hold_is_closed_once_while_it_grows_and_pays(dora: Member) -> None:
    hold(dora, "batch_1", 100)
    grown, settled, *released = at_once(
        lambda: try_hold(dora, "batch_1", 50, key="grow"),
        lambda: settle(dora, "batch_1", 30, key="1"),
        *[lambda: release(dora, "batch_1")] * 3,
    )
    assert len(set(released)) == 1
    assert released[0] + settled == {"held": 150, "conflict": 100}[grown]
    assert books(dora) == (10 * USD - settled, 0, settled)


def test_corrections_at_once_never_overdraw(dora: Member) -> None:
    def attempt(number: int) -> str:
        try:
            adjust(dora, -3 * USD, key=f"{number}")
        except HoneError as error:
            return error.code
        return "moved"

    assert Counter(at_once(*(partial(attempt, number) for number in range(8)))) == {"moved": 3, "insufficient_quota": 5}
    assert books(dora) == (1 * USD, 0, 0)


def test_organisations_do_not_wait_for_each_other(cast: Cast) -> None:
    # Alice's accounts stay locked until all of Charlie's work is done.
    with tenant_scope(cast.alice.organization.id):
        place_hold(organization_id=cast.alice.organization.id, job="batch_1", amount_nanos=1 * USD, key="1")
        at_once(one_after_the_other(
            lambda: hold(cast.charlie, "batch_1", 2 * USD),
            lambda: settle(cast.charlie, "batch_1", 1 * USD, key="1"),
            lambda: release(cast.charlie, "batch_1"),
        ))  # fmt: skip
    assert books(cast.alice) == (99 * USD, 1 * USD, 0)
    assert books(cast.charlie) == (99 * USD, 0, 1 * USD)
