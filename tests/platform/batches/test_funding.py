"""Money is held before anything runs, settled with every segment, and what is left is given back."""

from typing import Any

import pytest
from pytest_django import Settings

from batches.closing import close_due_batches
from batches.funding import steer_waiting_batches
from billing.selectors import find_discrepancies
from fleet.services import sweep_leases
from tests.support.cast import Cast
from tests.support.facts import accounts_agree, change, leases, let_leases_run_out, let_window_close, query_owner
from tests.support.money import add_credit, money, set_balance
from tests.support.rows import cancel, jsonl, line, quote, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, result, run_control

COST = 10 * 50 + 5 * 100
"""Of a row that the worker of the tests answers, in nano-USD."""
DEAR_COST = 600 * 50 + 16 * 100
"""Of one that costs almost what it may."""


def bound_of(cast: Cast, content: bytes) -> int:
    """What such a batch can cost at most."""
    bound: int = quote(cast.alice, content)["max_cost_nanos"]
    return bound


CONTENT = jsonl([line(number) for number in range(1, 5)])


def test_the_upper_bound_is_held_settled_by_segments_and_the_rest_released(cast: Cast) -> None:
    bound = bound_of(cast, CONTENT)
    before = money(cast.alice)[0]
    batch = submit(cast.alice, CONTENT)
    assert money(cast.alice) == (before, 0, 0)
    run_control()
    assert money(cast.alice) == (before - bound, bound, 0)
    grant = Worker().lease()
    grant.put(0, [result(1), result(2)])
    assert money(cast.alice) == (before - bound, bound - 2 * COST, 2 * COST)
    grant.put(0, [result(1), result(2)])
    assert money(cast.alice) == (before - bound, bound - 2 * COST, 2 * COST)
    grant.put(1, [result(3), result(4)])
    assert money(cast.alice) == (before - 4 * COST, 0, 4 * COST)
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["cost_nanos"]) == ("completed", 4 * COST)
    assert accounts_agree(batch)
    assert find_discrepancies() == []


def test_a_finished_shard_gives_back_what_it_did_not_need(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 2
    bound = bound_of(cast, CONTENT)
    before = money(cast.alice)[0]
    submit(cast.alice, CONTENT)
    run_control()
    grant = Worker().lease()
    grant.put(0, [result(row["line"]) for row in grant.rows()])
    (shard,) = query_owner("SELECT bound_nanos FROM batches_shard WHERE pending = 0")
    assert money(cast.alice) == (before - bound + shard[0] - 2 * COST, bound - shard[0], 2 * COST)
    assert find_discrepancies() == []


@pytest.mark.parametrize("missing", [1, 10**6])
def test_without_the_money_nothing_runs_and_the_reason_is_clear(cast: Cast, missing: int) -> None:
    bound = bound_of(cast, CONTENT)
    set_balance(cast.alice, max(0, bound - missing))
    before = money(cast.alice)
    batch = submit(cast.alice, CONTENT)
    run_control()
    failed = retrieve(cast.alice, batch)
    (error,) = failed["errors"]["data"]
    assert (failed["status"], error["code"], error["line"]) == ("failed", "insufficient_quota", None)
    assert "add credit" in error["message"]
    assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert Worker().request_lease().status_code == 204
    assert (leases(), query_owner("SELECT count(*) FROM batches_row")) == ([], [(0,)])
    assert money(cast.alice) == before
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_just_enough_is_enough(cast: Cast) -> None:
    set_balance(cast.alice, bound_of(cast, CONTENT))
    batch = submit(cast.alice, CONTENT)
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert money(cast.alice)[0] == 0


def test_of_a_hundred_batches_at_once_run_as_many_as_the_balance_pays_for(cast: Cast) -> None:
    content = jsonl([line(1)])
    bound = bound_of(cast, content)
    set_balance(cast.alice, 10 * bound + bound // 2)
    batches = [batch for _ in range(10) for batch in at_once(*[lambda: submit(cast.alice, content)] * 10)]
    for _ in range(10):
        at_once(*[run_control] * 4)
    found = [retrieve(cast.alice, batch) for batch in batches]
    assert sorted(batch["status"] for batch in found) == ["failed"] * 90 + ["in_progress"] * 10
    codes = {error["code"] for batch in found if batch["errors"] for error in batch["errors"]["data"]}
    assert codes == {"insufficient_quota"}
    assert money(cast.alice) == (bound // 2, 10 * bound, 0)
    assert Worker().answer_all() == 10
    run_control()
    assert money(cast.alice) == (10 * bound + bound // 2 - 10 * COST, 0, 10 * COST)
    assert find_discrepancies() == []


def test_a_cancelled_batch_pays_for_what_has_finished_and_gets_the_rest_back(cast: Cast) -> None:
    before = money(cast.alice)[0]
    batch = submit(cast.alice, CONTENT)
    run_control()
    grant = Worker().lease()
    grant.put(0, [result(1)])
    cancel(cast.alice, batch)
    grant.fail("cancelled")
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelled"
    assert money(cast.alice) == (before - COST, 0, COST)
    assert find_discrepancies() == []


def test_an_expired_batch_gets_the_rest_back(cast: Cast) -> None:
    before = money(cast.alice)[0]
    batch = submit(cast.alice, CONTENT)
    run_control()
    let_window_close(batch)
    close_due_batches()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "expired"
    assert money(cast.alice) == (before, 0, 0)


def test_rows_that_could_not_be_run_cost_nothing(cast: Cast, settings: Settings) -> None:
    settings.LEASE_MAX_ATTEMPTS = 1
    before = money(cast.alice)[0]
    batch = submit(cast.alice, CONTENT)
    run_control()
    Worker().lease()
    let_leases_run_out()
    sweep_leases()
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["failed"]) == ("completed", 4)
    assert money(cast.alice) == (before, 0, 0)


def test_an_answer_dearer_than_its_bound_holds_the_batch_and_costs_no_more(cast: Cast) -> None:
    bound = bound_of(cast, jsonl([line(1)]))
    before = money(cast.alice)[0]
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().lease().put(0, [result(1, completion_tokens=1_000_000)])
    run_control()
    held = retrieve(cast.alice, batch)
    assert (held["status"], held["waiting_reason"]) == ("finalizing", "held")
    assert "cost" in held["held_reason"]
    assert money(cast.alice) == (before - bound, 0, bound)
    assert find_discrepancies() == []


def capped(cast: Cast, content: bytes, max_cost: str) -> Any:
    batch = submit(cast.alice, content, max_cost=max_cost)
    run_control()
    return retrieve(cast.alice, batch)


def dollars(nanos: int) -> str:
    return f"{nanos // 10**9}.{nanos % 10**9:09}"


def answer_all(worker: Worker) -> int:
    """Until nothing waits any more, although each end may let more run; how many rows."""
    rows = 0
    while answered := worker.answer_all(prompt_tokens=600, completion_tokens=16):
        rows += answered
    return rows


def test_a_capped_batch_runs_what_fits_and_pauses_below_its_cap(cast: Cast) -> None:
    each = bound_of(cast, CONTENT) // 4
    before = money(cast.alice)[0]
    cap = 2 * each
    batch = capped(cast, CONTENT, dollars(cap))
    assert (batch["status"], batch["paused"], batch["max_cost"]) == ("in_progress", False, dollars(cap).rstrip("0"))
    assert money(cast.alice) == (before - cap, cap, 0)
    assert answer_all(Worker()) == 2
    paused = retrieve(cast.alice, batch)
    assert paused["request_counts"] == {"total": 4, "completed": 2, "failed": 0}
    assert (paused["status"], paused["paused"], paused["waiting_reason"]) == ("in_progress", True, "max_cost")
    assert money(cast.alice) == (before - 2 * DEAR_COST, 0, 2 * DEAR_COST)
    assert paused["cost_nanos"] == 2 * DEAR_COST
    assert find_discrepancies() == []


def test_what_cheap_rows_leave_over_pays_for_others(cast: Cast) -> None:
    bound = bound_of(cast, CONTENT)
    batch = capped(cast, CONTENT, dollars(bound // 2))
    worker = Worker()
    assert [worker.answer_all() for _ in range(3)] == [4, 0, 0]
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    assert accounts_agree(batch)


def test_a_raised_cap_resumes_the_batch_to_its_end(cast: Cast) -> None:
    bound = bound_of(cast, CONTENT)
    batch = capped(cast, CONTENT, dollars(bound // 2))
    worker = Worker()
    assert answer_all(worker) == 2
    path = f"/v1/batches/{batch['id']}/resume"
    refused = cast.alice.client.post(path, {"max_cost": dollars(bound // 3)})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_cost")
    assert cast.alice.client.post(path).json()["waiting_reason"] == "max_cost"
    resumed = cast.alice.client.post(path, {"max_cost": dollars(2 * bound)})
    assert (resumed.status_code, resumed.json()["paused"]) == (200, False)
    assert answer_all(worker) == 2
    run_control()
    done = retrieve(cast.alice, batch)
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 4)
    assert accounts_agree(batch)
    assert find_discrepancies() == []
    assert money(cast.alice)[1] == 0


def test_a_cap_below_one_row_runs_nothing(cast: Cast) -> None:
    batch = capped(cast, CONTENT, "0.000000001")
    assert (batch["status"], batch["paused"], batch["waiting_reason"]) == ("in_progress", True, "max_cost")
    assert Worker().request_lease().status_code == 204
    assert money(cast.alice)[1] == 0


def test_a_capped_batch_waits_for_a_top_up_when_the_balance_ends_first(cast: Cast) -> None:
    bound = bound_of(cast, CONTENT)
    set_balance(cast.alice, bound // 2)
    batch = capped(cast, CONTENT, dollars(10 * bound))
    worker = Worker()
    assert answer_all(worker) == 2
    paused = retrieve(cast.alice, batch)
    assert (paused["paused"], paused["waiting_reason"]) == (True, "insufficient_quota")
    add_credit(cast.alice, 10 * bound)
    assert retrieve(cast.alice, batch)["paused"] is False
    assert answer_all(worker) == 2
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    assert accounts_agree(batch)
    assert find_discrepancies() == []


def test_a_top_up_whose_news_were_lost_is_found_by_the_periodic_task(cast: Cast) -> None:
    bound = bound_of(cast, CONTENT)
    set_balance(cast.alice, 0)
    batch = capped(cast, CONTENT, dollars(bound))
    assert batch["waiting_reason"] == "insufficient_quota"
    change("UPDATE batches_batch SET pause_reason = 'max_cost'")  # so that the news change nothing
    add_credit(cast.alice, bound)
    change("UPDATE batches_batch SET pause_reason = 'insufficient_quota'")
    steer_waiting_batches()
    assert retrieve(cast.alice, batch)["paused"] is False
    assert Worker().answer_all() == 4


@pytest.mark.parametrize("value", ["1e3", "-1", "0.0000000001", True, [], "abc", -1, 1e30])
def test_a_cap_that_is_no_amount_is_refused(cast: Cast, value: Any) -> None:
    upload = cast.alice.client.upload(CONTENT).json()
    fields = {"input_file_id": upload["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = cast.alice.client.post("/v1/batches", {**fields, "max_cost": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "max_cost")
    assert query_owner("SELECT count(*) FROM batches_batch") == [(0,)]


def test_a_cap_may_be_a_number(cast: Cast) -> None:
    assert submit(cast.alice, CONTENT, max_cost=0.25)["max_cost"] == "0.25"
