"""Whatever happens in whatever order, and wherever it is interrupted: the books are those of a ledger kept by hand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from billing.selectors import balance, find_discrepancies
from billing.services import (
    adjust_balance,
    grant_credit,
    open_organization,
    place_hold,
    release_hold,
    settle_hold,
)
from common.errors import HoneError
from tenants.scope import tenant_scope

JOBS = st.sampled_from(["batch_1", "batch_2", "ftjob-3"])
AMOUNTS = st.integers(0, 120)
CRASHES = st.integers(0, 1)
"""How often the process dies before the commit, until it comes through."""

Call = Callable[[], Any]


@dataclass
class Book:
    """The same ledger, kept by hand."""

    available: int = 0
    spent: int = 0
    holds: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def take(self, job: str, amount: int) -> None:
        """Out of what a job holds."""
        if amount:
            self.holds[job] -= amount


class Ledger(RuleBasedStateMachine):
    """Services and book are told the same; each step checks the answer and, after it, everything that is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.organization_id: UUID = open_organization(name="Dora", owner_email="d@example.com").organization.id
        self.book = Book()
        self.keys = count()
        self.done: list[tuple[Call, Any]] = []

    def call(self, service: Callable[..., Any], *, crashes: int, **arguments: Any) -> Any:
        """The answer of a service, or the code of its refusal, after dying that often in the middle."""
        request = partial(
            service, organization_id=self.organization_id, key=f"{service.__name__} {next(self.keys)}", **arguments
        )
        for _ in range(crashes):
            self.run(request, dies=True)
        answer = self.run(request)
        if not (isinstance(answer, str) or answer == 0):  # what was refused or moved nothing may well succeed later
            self.done.append((request, answer))
        return answer

    def run(self, request: Call, *, dies: bool = False) -> Any:
        """One transaction."""
        try:
            with tenant_scope(self.organization_id):
                answer = request()
                transaction.set_rollback(dies)
        except HoneError as error:
            return error.code
        return getattr(answer, "id", answer)

    @rule(amount=st.integers(-60, 150).filter(bool), crashes=CRASHES)
    def adjust(self, amount: int, crashes: int) -> None:
        """A correction."""
        answer = self.call(adjust_balance, amount_nanos=amount, reason="r", actor="a", crashes=crashes)
        if self.book.available + amount < 0:
            assert answer == "insufficient_quota"
        else:
            assert isinstance(answer, UUID)
            self.book.available += amount

    @rule(amount=st.integers(1, 200), crashes=CRASHES)
    def credit(self, amount: int, crashes: int) -> None:
        """A top-up."""
        answer = self.call(grant_credit, amount_nanos=amount, reason="r", actor="a", crashes=crashes)
        assert isinstance(answer, UUID)
        self.book.available += amount

    @rule(job=JOBS, amount=AMOUNTS, crashes=CRASHES)
    def hold(self, job: str, amount: int, crashes: int) -> None:
        """A first hold, or a growing one."""
        answer = self.call(place_hold, job=job, amount_nanos=amount, crashes=crashes)
        if amount and job in self.book.closed:
            assert answer == "conflict"
        elif amount > self.book.available:
            assert answer == "insufficient_quota"
        else:
            assert answer is None
            self.book.available -= amount
            if amount:
                self.book.holds[job] = self.book.holds.get(job, 0) + amount

    @rule(job=JOBS, amount=AMOUNTS, crashes=CRASHES)
    def settle(self, job: str, amount: int, crashes: int) -> None:
        """Also more than there is."""
        settled = min(amount, self.book.holds.get(job, 0))
        assert self.call(settle_hold, job=job, amount_nanos=amount, crashes=crashes) == settled
        self.book.take(job, settled)
        self.book.spent += settled

    @rule(job=JOBS, amount=AMOUNTS, crashes=CRASHES)
    def release_part(self, job: str, amount: int, crashes: int) -> None:
        """Also more than there is."""
        released = min(amount, self.book.holds.get(job, 0))
        assert self.call(release_hold, job=job, amount_nanos=amount, crashes=crashes) == released
        self.book.take(job, released)
        self.book.available += released

    @rule(job=JOBS, crashes=CRASHES)
    def release_all(self, job: str, crashes: int) -> None:
        """The end of a job, or a second end."""
        released = self.book.holds.get(job, 0)
        assert self.call(release_hold, job=job, crashes=crashes) == released
        self.book.take(job, released)
        self.book.available += released
        if job in self.book.holds:
            self.book.closed.add(job)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Any earlier call, again: the answer of then."""
        request, answer = data.draw(st.sampled_from(self.done))
        assert self.run(request) == answer

    @invariant()
    def the_books_agree(self) -> None:
        """What is stored is what the book says, and the checker finds nothing."""
        with tenant_scope(self.organization_id):
            found = balance(organization_id=self.organization_id)
        assert found.available_nanos == self.book.available >= 0
        assert found.held_nanos == sum(self.book.holds.values())
        assert found.spent_nanos == self.book.spent
        assert find_discrepancies(organization_id=self.organization_id) == []


def test_any_order_of_movements_repeats_and_crashes_keeps_the_books(database: None) -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
