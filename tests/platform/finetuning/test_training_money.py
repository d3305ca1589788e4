"""What a training costs: each token once, nothing that was not trained, never more than its owner allows."""

import time
from typing import Any

import pytest

from common.money import NANOS_PER_USD
from tests.support.cast import MODEL, Cast
from tests.support.facts import let_back_off_pass, query_owner
from tests.support.jobs import (
    act,
    checkpoint,
    claim,
    complete,
    done,
    events_of,
    metrics,
    queue,
    retrieve,
    train,
    upload_checkpoint,
)
from tests.support.model import TRAINING
from tests.support.money import add_credit, money, set_balance

pytestmark = pytest.mark.usefixtures("model")

PRICE = TRAINING.input_nanos
CREDIT = 100 * NANOS_PER_USD


def usage() -> list[tuple[Any, ...]]:
    """Events of training: job, tokens, cost."""
    return query_owner(
        "SELECT job, sum(input_tokens), sum(cost_nanos) FROM metering_usageevent WHERE operation = 'training' "
        "GROUP BY job"
    )


def usd(nanos: int) -> str:
    return f"{nanos / NANOS_PER_USD:.9f}"


def test_the_upper_bound_is_held_and_what_was_trained_is_paid(cast: Cast) -> None:
    job = queue(cast.alice)
    bound = job["progress"]["total_tokens"] * PRICE
    assert job["max_cost_nanos"] == bound
    assert money(cast.alice) == (CREDIT - bound, bound, 0)
    grant = claim()
    grant.report(metrics(1, 1, 1_000))
    assert retrieve(cast.alice, job)["cost_nanos"] == 1_000 * PRICE
    assert money(cast.alice) == (CREDIT - bound, bound - 1_000 * PRICE, 1_000 * PRICE)
    grant.report(metrics(2, 2, 2_000))
    upload = job["progress"]["total_tokens"]
    grant.report(done(3, 2, upload - 1_000))
    assert money(cast.alice)[2] == bound - 1_000 * PRICE


def test_a_training_that_ends_early_gives_the_rest_back(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    job["progress"]["total_tokens"] -= 500
    tokens = train(grant, job)
    complete(grant)
    assert retrieve(cast.alice, job)["trained_tokens"] == tokens
    assert money(cast.alice) == (CREDIT - tokens * PRICE, 0, tokens * PRICE)
    assert [tuple(map(str, row)) for row in usage()] == [(job["id"], str(tokens), str(tokens * PRICE))]


def test_a_kill_that_repeats_steps_is_charged_once(cast: Cast) -> None:
    job = queue(cast.alice)
    first = claim()
    first.report(metrics(1, 1, 1_000))
    upload_checkpoint(first, 1)
    first.report(checkpoint(2, 1, interim=True), metrics(3, 2, 2_000), metrics(4, 3, 3_000))
    first.fail("trainer_died")
    assert money(cast.alice)[2] == 3_000 * PRICE
    let_back_off_pass()
    second = claim("trainer-2")
    second.report(metrics(5, 2, 2_000))
    second.report(metrics(6, 3, 3_000))
    assert money(cast.alice)[2] == 3_000 * PRICE
    second.report(metrics(7, 4, 4_000))
    second.fail("trainer_died")
    assert money(cast.alice)[2] == 4_000 * PRICE
    assert retrieve(cast.alice, job)["cost_nanos"] == 4_000 * PRICE


def test_small_steps_are_settled_by_the_hundredth(cast: Cast) -> None:
    job = queue(cast.alice)
    total = job["progress"]["total_tokens"]
    grant = claim()
    for step in range(1, 51):
        grant.report(metrics(step, step, step * total // 1_000))
    (events,) = query_owner("SELECT count(*), sum(input_tokens) FROM metering_usageevent WHERE operation = 'training'")
    assert events[0] <= 6
    assert events[1] <= 50 * total // 1_000
    act(cast.alice, job, "cancel")
    assert money(cast.alice) == (CREDIT - 50 * total // 1_000 * PRICE, 0, 50 * total // 1_000 * PRICE)


def test_cancelling_charges_what_was_trained(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    grant.report(metrics(1, 1, 1_001))
    answer = act(cast.alice, job, "cancel").json()
    assert (answer["status"], answer["trained_tokens"], answer["cost_nanos"]) == ("cancelled", 1_001, 1_001 * PRICE)
    assert money(cast.alice) == (CREDIT - 1_001 * PRICE, 0, 1_001 * PRICE)
    assert grant.report(metrics(2, 2, 5_000)).status_code == 409
    assert grant.heartbeat() == "lost"
    assert money(cast.alice) == (CREDIT - 1_001 * PRICE, 0, 1_001 * PRICE)


def test_a_job_that_never_trained_costs_nothing(cast: Cast) -> None:
    job = queue(cast.alice)
    act(cast.alice, job, "cancel")
    assert money(cast.alice) == (CREDIT, 0, 0)
    assert usage() == []


def test_without_the_money_the_job_fails_clearly(cast: Cast) -> None:
    set_balance(cast.alice, 1_000)
    job = queue(cast.alice)
    assert (job["status"], job["error"]["code"], job["error"]["param"]) == ("failed", "insufficient_quota", None)
    assert "add credit, set max_cost, or train fewer epochs" in job["error"]["message"]
    assert money(cast.alice) == (1_000, 0, 0)


def test_a_cap_holds_no_more_than_itself_and_pauses_the_job(cast: Cast) -> None:
    cap = 5_000 * PRICE
    job = queue(cast.alice, max_cost=usd(cap))
    assert money(cast.alice) == (CREDIT - cap, cap, 0)
    grant = claim()
    grant.report(metrics(1, 1, 4_000))
    assert grant.heartbeat() == "continue"
    grant.report(metrics(2, 2, 4_900))
    assert grant.heartbeat() == "pause"
    job = retrieve(cast.alice, job)
    assert (job["status"], job["paused"], job["waiting_reason"]) == ("queued", True, "max_cost")
    grant.report(metrics(3, 3, 5_300))  # it did not hear of it at once
    upload_checkpoint(grant, 3)
    grant.report(checkpoint(4, 3, interim=True))
    grant.fail("paused")
    assert money(cast.alice) == (CREDIT - cap, 0, cap)
    assert retrieve(cast.alice, job)["cost_nanos"] == cap


def test_a_higher_cap_pays_for_what_was_trained_beyond_the_last_one_and_goes_on(cast: Cast) -> None:
    cap = 5_000 * PRICE
    job = queue(cast.alice, max_cost=usd(cap))
    grant = claim()
    grant.report(metrics(1, 1, 5_300))
    grant.fail("paused")
    for lower in (usd(cap - PRICE), "0.000000001"):
        refused = act(cast.alice, job, "resume", max_cost=lower)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_cost")
    assert act(cast.alice, job, "resume").json()["waiting_reason"] == "max_cost"
    resumed = act(cast.alice, job, "resume", max_cost="50").json()
    assert (resumed["status"], resumed["paused"], resumed["waiting_reason"]) == ("queued", False, "queued")
    bound = job["max_cost_nanos"]
    assert money(cast.alice) == (CREDIT - bound, bound - cap, cap)
    following = claim("trainer-2")
    following.report(metrics(2, 2, 5_400))
    act(cast.alice, job, "cancel")
    assert money(cast.alice) == (CREDIT - 5_400 * PRICE, 0, 5_400 * PRICE)


def test_a_higher_cap_that_nobody_can_pay_changes_nothing(cast: Cast) -> None:
    cap = 5_000 * PRICE
    job = queue(cast.alice, max_cost=usd(cap))
    claim().fail("paused")
    act(cast.alice, job, "pause")
    set_balance(cast.alice, 10)
    before = retrieve(cast.alice, job)
    refused = act(cast.alice, job, "resume", max_cost="50")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert retrieve(cast.alice, job) == before
    add_credit(cast.alice, job["max_cost_nanos"])
    assert act(cast.alice, job, "resume", max_cost="50").json()["paused"] is False


def test_a_cap_below_the_first_steps_pauses_before_anything_is_trained(cast: Cast) -> None:
    job = queue(cast.alice, max_cost=usd(10 * PRICE))
    assert (job["paused"], job["waiting_reason"]) == (True, "max_cost")
    assert events_of(cast.alice, job)[-1]["level"] == "warn"


def test_training_is_an_item_of_the_costs_and_no_completion(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    tokens = train(grant, job)
    complete(grant)
    since = f"start_time={int(time.time()) - 86_400}"
    (bucket,) = [
        bucket
        for bucket in cast.alice.admin.get(f"/v1/organization/costs?{since}&group_by[]=line_item").json()["data"]
        if bucket["results"]
    ]
    assert [(item["line_item"], item["quantity"]) for item in bucket["results"]] == [
        (f"{MODEL}, training, input_tokens", tokens)
    ]
    for route in ("completions", "embeddings"):
        page = cast.alice.admin.get(f"/v1/organization/usage/{route}?{since}").json()
        assert all(bucket["results"] == [] for bucket in page["data"])
