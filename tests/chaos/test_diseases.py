"""What the product lives on fails for a while. Each disease has an outcome, and it is this one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import openai
import psutil
import pytest
from openai.types import Batch

from infra.dev.instance import Instance
from tests.chaos.processes import (
    NODES,
    answered_by_engines,
    engine,
    family,
    frozen,
    kill,
    log_of,
    program,
    wait_for,
    web_child,
)
from tests.e2e.jobs import completed, output, requests, submit, wait_for_end, wait_for_rows
from tests.support.books import assert_accounts_agree, assert_nothing_is_stuck, assert_the_ledger_is_right, query
from tests.support.cast import MODEL
from tests.support.customers import Customer
from tests.support.stand_in_engine import DIE
from tests.support.waiting import wait_until

ROWS = 120
TINY_FILE_BYTES = 64
"""Less than the result of one row."""
MOST_DEATHS = 8
"""Of an engine with four rows in flight: two to halve them, two of the row alone, and some by bad luck."""
_HELD = "SELECT count(*) FROM fleet_lease WHERE kind = 'batch_shard' AND state = 'leased' AND leased_until {} now()"


@pytest.fixture(autouse=True)
def healthy(instance: Instance) -> Iterator[None]:
    """Both nodes have an engine to begin with; in the end nothing is left behind."""
    for node in NODES:
        wait_for(partial(engine, instance, node))
    yield
    assert_nothing_is_stuck(instance)
    assert_the_ledger_is_right(instance)


def test_postgres_crashes_and_is_restarted_while_a_batch_runs(instance: Instance, alice: Customer) -> None:
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    begun = wait_for_rows(alice.client, batch, 1)

    instance.services.kill_postgres()  # it is started again by itself
    crashed = wait_for_rows(alice.client, batch, completed(begun) + 16)
    instance.services.restart_postgres()
    wait_for_rows(alice.client, batch, completed(crashed) + 16)

    assert_all_answered(instance, alice, batch)
    wait_until(lambda: revivals(instance, "postgres") == 1)


def test_without_valkey_batches_are_validated_run_and_assembled_by_polling(instance: Instance, alice: Customer) -> None:
    instance.services.stop_valkey()
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    assert_all_answered(instance, alice, batch)

    instance.services.restart_valkey()
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    assert_all_answered(instance, alice, batch)


def test_valkey_crashes_and_is_started_again_by_itself(instance: Instance, alice: Customer) -> None:
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    wait_for_rows(alice.client, batch, 1)

    instance.services.kill_valkey()

    assert_all_answered(instance, alice, batch)
    wait_until(lambda: revivals(instance, "valkey") == 1)


def test_results_arrive_after_the_control_plane_has_been_away_and_no_row_runs_twice(
    instance: Instance, alice: Customer
) -> None:
    before = answered_by_engines(instance)
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    wait_for_rows(alice.client, batch, 1)

    with frozen(*family(program(instance, "beat")), *family(program(instance, "control"))):
        with frozen(*family(program(instance, "web"))):
            wait_until(lambda: query(instance, _HELD.format(">=")) == [(0,)], seconds=60)
            by_engines = answered_by_engines(instance) - before
        # Longer than the leases last; but nobody has taken them away, so their holders bring what they have.
        wait_for_rows(alice.client, batch, by_engines)
        wait_until(lambda: query(instance, _HELD.format("<")) == [(0,)], seconds=60)

    assert_all_answered(instance, alice, batch)
    assert answered_by_engines(instance) - before == ROWS


def test_a_store_without_room_refuses_uploads_and_agents_keep_their_rows(instance: Instance, alice: Customer) -> None:
    before = answered_by_engines(instance)
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    wait_for_rows(alice.client, batch, 1)

    with largest_file(web_child(instance), TINY_FILE_BYTES):
        wait_until(lambda: segments_refused(instance, "507 storage_full") >= 4, seconds=60)
        assert_upload_refused(alice, 507, "storage_full")
        stored = completed(alice.client.batches.retrieve(batch.id))
        wait_until(lambda: segments_refused(instance, "507 storage_full") >= 8, seconds=60)
        assert completed(alice.client.batches.retrieve(batch.id)) == stored

    assert_all_answered(instance, alice, batch)
    assert answered_by_engines(instance) - before == ROWS


def test_a_store_that_is_away_refuses_uploads_and_agents_keep_their_rows(instance: Instance, alice: Customer) -> None:
    batch = submit(alice.client, requests(ROWS, model=MODEL))
    wait_for_rows(alice.client, batch, 1)
    before = segments_refused(instance, "503 service_unavailable")
    folder = instance.home / "storage" / alice.organization_id.removeprefix("org_")

    with put_aside(instance, folder):
        wait_until(lambda: segments_refused(instance, "503 service_unavailable") > before, seconds=60)
        assert_upload_refused(alice, 503, "service_unavailable")

    assert_all_answered(instance, alice, batch)


def test_a_poisonous_row_fails_alone(instance: Instance, alice: Customer, charlie: Customer) -> None:
    deaths = deaths_of_engines(instance)
    good = requests(199, model=MODEL).splitlines(keepends=True)
    poison = requests(1, model=MODEL, messages=[{"role": "user", "content": DIE}]).replace(b"row-1", b"poison")
    batch = submit(alice.client, b"".join([*good[:77], poison, *good[77:]]))
    neighbours = submit(charlie.client, requests(ROWS, model=MODEL))

    assert_all_answered(instance, alice, batch, 199)
    failures = output(alice.client, alice.client.batches.retrieve(batch.id).error_file_id)
    assert [(failure["custom_id"], failure["error"]["code"]) for failure in failures] == [("poison", "worker_failure")]
    assert_all_answered(instance, charlie, neighbours)
    assert 2 <= deaths_of_engines(instance) - deaths <= MOST_DEATHS


def test_the_control_worker_is_killed_while_it_validates_and_while_it_assembles(
    instance: Instance, alice: Customer
) -> None:
    bad = b"".join(json.dumps({"custom_id": f"bad-{number}"}).encode() + b"\n" for number in range(20_000))
    batch = submit(alice.client, requests(20, model=MODEL) + bad, extra_body={"on_invalid": "skip"})
    for kind in ("batch_validation", "batch_assembly"):
        wait_for_claim(instance, alice, kind)
        kill(partial(program, instance, "control"))

    assert_all_answered(instance, alice, batch, 20)
    assert last_lease(instance, alice, "batch_validation") == ("done", 2)
    assert last_lease(instance, alice, "batch_assembly") == ("done", 2)


def assert_all_answered(instance: Instance, customer: Customer, batch: Batch, rows: int = ROWS) -> None:
    wait_for_end(customer.client, batch)
    assert completed(assert_accounts_agree(instance, customer, batch)) == rows


def assert_upload_refused(customer: Customer, status: int, code: str) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        submit(customer.client.with_options(max_retries=0), requests(ROWS, model=MODEL))
    assert (refused.value.status_code, refused.value.code) == (status, code)


def segments_refused(instance: Instance, error: str) -> int:
    """How often agents were told so when they brought a segment."""
    entries = [entry for node in NODES for entry in log_of(instance, f"agent-{node}")]
    refused = [entry for entry in entries if entry["event"] == "control_plane_unavailable"]
    return sum("/segments/" in entry["call"] and entry["error"].startswith(error) for entry in refused)


def revivals(instance: Instance, server: str) -> int:
    """How often the launcher has found a server dead."""
    says = [entry["event"] for entry in log_of(instance, "hone")]
    return says.count(f"{server} had ended and was started again")


def deaths_of_engines(instance: Instance) -> int:
    entries = [entry["event"] for node in NODES for entry in log_of(instance, f"agent-{node}")]
    return entries.count("engine_died")


@contextmanager
def largest_file(process: psutil.Process, size: int) -> Iterator[None]:
    """The process can write no file larger than ``size`` bytes: as good as a full disk, and needs no rights."""
    _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (size, hard))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def put_aside(instance: Instance, folder: Path) -> Iterator[None]:
    """A file stands where the folder was. Web stands still meanwhile, or it might make the folder anew."""
    aside = folder.with_suffix(".aside")
    with frozen(*family(program(instance, "web"))):
        folder.rename(aside)
        folder.touch()
    yield
    with frozen(*family(program(instance, "web"))):
        folder.unlink()
        aside.rename(folder)


def wait_for_claim(instance: Instance, customer: Customer, kind: str) -> None:
    """Until the customer's newest lease of a kind is held for the first time."""
    wait_until(lambda: last_lease(instance, customer, kind) == ("leased", 1), seconds=120)


def last_lease(instance: Instance, customer: Customer, kind: str) -> tuple[str, int] | None:
    """State and number of claims of the customer's newest lease of a kind."""
    statement = "SELECT state, epoch FROM fleet_lease WHERE kind = %s AND organization_id = %s ORDER BY id DESC LIMIT 1"
    rows = query(instance, statement, kind, customer.organization_id.removeprefix("org_"))
    return (str(rows[0][0]), int(rows[0][1])) if rows else None
