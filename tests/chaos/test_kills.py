"""Everything that can be killed is killed, again and again, while batches run: no row is lost, none counted twice."""

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from openai.types import Batch

from infra.dev.instance import Instance
from tests.chaos.processes import kill, victims, wait_for_web
from tests.e2e.jobs import requests, submit, wait_for_end
from tests.support.books import assert_accounts_agree, assert_nothing_is_stuck, assert_the_ledger_is_right, query
from tests.support.cast import MODEL
from tests.support.customers import Customer
from tests.support.waiting import wait_until

ROWS = 300
KILLS = max(20, int(os.environ.get("HONE_CHAOS_KILLS", "0")))
WIPES = KILLS // 10
MOST_ROWS_BETWEEN = 16


def test_batches_survive_the_death_of_every_process(
    instance: Instance, alice: Customer, charlie: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("HONE_CHAOS_SEED") or random.SystemRandom().randrange(2**32))
    print(f"HONE_CHAOS_SEED={seed}")  # noqa: T201  # pytest shows it when the test fails
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    batches: list[tuple[Customer, Batch]] = []
    for kind in _plan(instance, chance):
        if _pending(instance) == 0:
            wait_for_web(instance)
            batches += [
                (customer, submit(customer.client, requests(ROWS, model=MODEL))) for customer in (alice, charlie)
            ]
            wait_until(lambda: _pending(instance) > 0, seconds=60)
        if kind == "wipe of Valkey":
            instance.services.wipe_valkey()
        else:
            kill(chance.choice(victims(instance)[kind]))
        done[kind] += 1
        _let_rows_pass(instance, chance.randint(0, MOST_ROWS_BETWEEN))

    for customer, batch in batches:
        wait_for_end(customer.client, batch, seconds=300)
        finished = assert_accounts_agree(instance, customer, batch)
        assert finished.request_counts is not None
        assert finished.request_counts.completed == ROWS
    assert_nothing_is_stuck(instance)
    assert_the_ledger_is_right(instance)
    with capsys.disabled():
        kinds = ", ".join(f"{count} x {kind}" for kind, count in done.most_common())
        sys.stdout.write(f"\n{len(batches)} batches of {ROWS} rows survived (seed {seed}): {kinds}\n")


def _plan(instance: Instance, chance: random.Random) -> Iterator[str]:
    """Every kind as often as the others, give or take one, in random order, with the wipes in between."""
    kinds = list(victims(instance))
    plan = [*kinds * (KILLS // len(kinds)), *chance.sample(kinds, KILLS % len(kinds)), *["wipe of Valkey"] * WIPES]
    chance.shuffle(plan)
    yield from plan


def _pending(instance: Instance) -> int:
    """Rows that wait for their answer."""
    ((count,),) = query(instance, "SELECT count(*) FROM batches_row WHERE state = 'pending'")
    return int(count)


def _let_rows_pass(instance: Instance, rows: int) -> None:
    """Wait until so many more have been answered, or all of them have."""
    goal = max(0, _pending(instance) - rows)
    wait_until(lambda: _pending(instance) <= goal, seconds=120)
