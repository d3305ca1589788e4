"""Everything that can happen to a job at once: one end, one charge, nothing that waits for ever.

Each test runs real calls on real connections, and then looks at the books.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from fleet.services import sweep_leases
from tests.support.cast import Cast
from tests.support.facts import count, let_back_off_pass, let_leases_run_out, query_owner
from tests.support.jobs import act, claim, create, metrics, queue, retrieve, train, try_models, upload_checkpoint
from tests.support.ledger import books
from tests.support.model import TRAINING
from tests.support.threads import at_once
from tests.support.worker import Worker, run_control

pytestmark = pytest.mark.usefixtures("model")

ROUNDS = 2
TERMINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture(autouse=True)
def nothing_was_swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A deadlock that is logged and tried again is a defect all the same."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


def status(call: Callable[..., Any], *arguments: Any) -> int:
    code: int = call(*arguments).status_code
    return code


def bring_to_its_end(cast: Cast, job: Any) -> Any:
    """Whatever state a race has left things in, time, its owner and nodes finish them."""
    act(cast.alice, job, "resume")
    for _ in range(4):
        let_leases_run_out()
        let_back_off_pass()
        sweep_leases()
        let_back_off_pass()
        run_control()
        worker = Worker(name="finisher")
        worker.report(trains=True)
        try_models(worker)
        run_control()
        if retrieve(cast.alice, job)["status"] in TERMINAL:
            break
        act(cast.alice, job, "cancel")
    return retrieve(cast.alice, job)


def assert_the_books_agree(cast: Cast, job: Any) -> None:
    assert job["status"] in TERMINAL
    ((tokens, cost),) = query_owner(
        "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(cost_nanos), 0) FROM metering_usageevent WHERE job = %s",
        job["id"],
    )
    assert (int(tokens), int(cost)) == (job["trained_tokens"], job["cost_nanos"])
    assert int(cost) == int(tokens) * TRAINING.input_nanos
    _, held, spent = books(cast.alice)
    assert held == 0
    assert query_owner("SELECT count(*) FROM files_fileuse") == [(0,)]
    assert query_owner("SELECT count(*) FROM fleet_lease WHERE state IN ('waiting', 'leased', 'paused')") == [(0,)]
    assert spent == sum(int(row[0]) for row in query_owner("SELECT cost_nanos FROM metering_usageevent"))


def test_pause_cancel_and_completion_at_once_end_in_one_way(cast: Cast) -> None:
    for number in range(ROUNDS):
        job = queue(cast.alice)
        grant = claim(f"trainer-{number}")
        train(grant, job)
        actions = ["pause", "cancel", "pause", "cancel"]
        calls = [partial(status, partial(act, cast.alice, job, action)) for action in actions]
        *answers, _, _ = at_once(*calls, *[partial(status, grant.complete)] * 2)
        assert set(answers) <= {200, 409}
        done = bring_to_its_end(cast, job)
        assert done["status"] == ("cancelled" if 200 in (answers[1], answers[3]) else "succeeded")
        assert_the_books_agree(cast, done)


def test_pause_and_resume_at_once_leave_a_job_that_goes_on(cast: Cast) -> None:
    for number in range(ROUNDS):
        job = queue(cast.alice)
        grant = claim(f"trainer-{number}")
        actions = ["pause", "resume", "pause", "resume"]
        answers = at_once(*[partial(status, partial(act, cast.alice, job, action)) for action in actions])
        assert answers == [200] * 4
        paused = retrieve(cast.alice, job)["paused"]
        assert grant.heartbeat() == ("pause" if paused else "continue")
        assert act(cast.alice, job, "resume").json()["paused"] is False
        assert grant.heartbeat() == "continue"
        train(grant, job)
        assert grant.complete().status_code == 200
        assert_the_books_agree(cast, bring_to_its_end(cast, job))


def test_events_sent_by_two_threads_at_once_are_noted_once(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    for number in range(1, 6):
        answers = at_once(*[partial(status, partial(grant.report, metrics(number, number, 100 * number)))] * 3)
        assert answers == [200] * 3
    assert count("finetuning_metricpoint") == 5
    act(cast.alice, job, "cancel")
    assert_the_books_agree(cast, retrieve(cast.alice, job))


def test_events_that_race_with_the_end_count_or_do_not(cast: Cast) -> None:
    for number in range(ROUNDS):
        job = queue(cast.alice)
        grant = claim(f"trainer-{number}")
        ends = [partial(act, cast.alice, job, "cancel")] * 2
        reported, *_ = at_once(
            partial(status, partial(grant.report, metrics(1, 1, 1_000))), *[partial(status, end) for end in ends]
        )
        done = retrieve(cast.alice, job)
        assert (reported, done["trained_tokens"]) in [(200, 1_000), (409, 0)]
        assert_the_books_agree(cast, done)


def test_cancelling_while_the_data_is_prepared_leaves_nothing_behind(cast: Cast) -> None:
    for _ in range(ROUNDS):
        job = create(cast.alice)
        at_once(run_control, partial(act, cast.alice, job, "cancel"))
        done = bring_to_its_end(cast, job)
        assert done["status"] == "cancelled"
        assert_the_books_agree(cast, done)
    assert count("finetuning_artifact") == 0


def test_cancelling_while_the_model_is_published_ends_in_one_way(cast: Cast) -> None:
    for number in range(ROUNDS):
        job = queue(cast.alice)
        grant = claim(f"trainer-{number}")
        train(grant, job)
        grant.complete()
        _, cancelled = at_once(run_control, partial(status, partial(act, cast.alice, job, "cancel")))
        assert cancelled == 200
        done = bring_to_its_end(cast, job)
        assert (done["status"], done["fine_tuned_model"]) == ("cancelled", None)
        assert_the_books_agree(cast, done)
    assert {state for (state,) in query_owner("SELECT state FROM catalog_finetunedmodel")} <= {"refused", "publishing"}


def test_a_sweep_that_races_with_a_pause_loses_no_job(cast: Cast) -> None:
    for number in range(ROUNDS):
        job = queue(cast.alice)
        grant = claim(f"trainer-{number}")
        upload_checkpoint(grant, 1)
        let_leases_run_out()
        at_once(sweep_leases, partial(act, cast.alice, job, "pause"), partial(status, grant.fail))
        found = retrieve(cast.alice, job)
        assert (found["status"], found["paused"]) == ("queued", True)
        let_back_off_pass()
        act(cast.alice, job, "resume")
        following = claim(f"following-{number}")
        train(following, job)
        following.complete()
        assert_the_books_agree(cast, bring_to_its_end(cast, job))


def test_one_training_is_claimed_by_one_node(cast: Cast) -> None:
    queue(cast.alice)
    workers = [Worker(name=f"node-{number}") for number in range(4)]
    for worker in workers:
        worker.report(trains=True)
    answers = at_once(*[partial(status, partial(worker.request_lease, kinds=["training"])) for worker in workers])
    assert sorted(answers) == [200, 204, 204, 204]
