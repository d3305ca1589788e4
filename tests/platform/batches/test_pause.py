"""A batch rests when its owner says so, and goes on where it was."""

from typing import Any

import pytest

from batches.closing import close_due_batches
from batches.funding import steer_waiting_batches
from fleet.services import sweep_leases
from tests.support.cast import Cast
from tests.support.facts import accounts_agree, change, leases, let_leases_run_out, let_window_close, query_owner
from tests.support.rows import cancel, jsonl, line, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, result, run_control

CONTENT = jsonl([line(1), line(2)])


def ask(cast: Cast, batch: Any, what: str) -> Any:
    answer = cast.alice.client.post(f"/v1/batches/{batch['id']}/{what}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def running(cast: Cast) -> Any:
    batch = submit(cast.alice, CONTENT)
    run_control()
    return batch


def test_a_paused_batch_is_not_handed_out_until_it_is_resumed(cast: Cast) -> None:
    batch = running(cast)
    paused = ask(cast, batch, "pause")
    assert (paused["status"], paused["paused"], paused["waiting_reason"]) == ("in_progress", True, "paused")
    worker = Worker()
    assert worker.request_lease().status_code == 204
    assert ask(cast, batch, "pause")["paused"] is True
    assert ask(cast, batch, "resume")["paused"] is False
    assert worker.answer_all() == 2
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"
    assert accounts_agree(batch)
    actions = query_owner("SELECT action FROM tenants_auditevent WHERE subject = %s ORDER BY id", batch["id"])
    assert [action for (action,) in actions] == ["batch.created", "batch.paused", "batch.resumed", "batch.completed"]


def test_the_holder_of_a_paused_batch_keeps_what_it_has_finished_and_gives_the_rest_back(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    ask(cast, batch, "pause")
    assert grant.put(0, [result(1)]).status_code == 201
    assert grant.fail("paused").status_code == 200
    assert [(lease.state, lease.attempts) for lease in leases()] == [("paused", 0)]
    ask(cast, batch, "resume")
    assert [row["line"] for row in Worker("node-2").lease().rows()] == [2]


def test_a_holder_that_dies_while_it_is_asked_to_pause_leaves_the_lease_paused(cast: Cast) -> None:
    batch = running(cast)
    Worker().lease()
    ask(cast, batch, "pause")
    let_leases_run_out()
    sweep_leases()
    assert [(lease.state, lease.attempts) for lease in leases()] == [("paused", 0)]
    ask(cast, batch, "resume")
    assert [lease.state for lease in leases()] == ["waiting"]


def test_a_batch_resumed_before_its_holder_let_go_loses_no_try(cast: Cast) -> None:
    batch = running(cast)
    grant = Worker().lease()
    ask(cast, batch, "pause")
    ask(cast, batch, "resume")
    grant.fail("paused")
    assert [(lease.state, lease.attempts) for lease in leases()] == [("waiting", 0)]


def test_a_batch_paused_while_it_is_validated_waits_after_it(cast: Cast) -> None:
    batch = submit(cast.alice, CONTENT)
    ask(cast, batch, "pause")
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert Worker().request_lease().status_code == 204
    ask(cast, batch, "resume")
    assert Worker().answer_all() == 2


def test_a_paused_batch_can_be_cancelled(cast: Cast) -> None:
    batch = running(cast)
    ask(cast, batch, "pause")
    cancel(cast.alice, batch)
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelled"


def test_the_window_of_a_paused_batch_closes_all_the_same(cast: Cast) -> None:
    batch = running(cast)
    ask(cast, batch, "pause")
    let_window_close(batch)
    close_due_batches()
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "expired"


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_a_batch_that_has_ended_is_neither_paused_nor_resumed(cast: Cast, what: str) -> None:
    batch = submit(cast.alice, b"bad\n")
    run_control()
    answer = cast.alice.client.post(f"/v1/batches/{batch['id']}/{what}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert answer.headers["x-should-retry"] == "false"
    assert retrieve(cast.alice, batch)["paused"] is False


def test_a_wish_whose_second_step_was_lost_is_carried_out_by_the_periodic_task(cast: Cast) -> None:
    running(cast)
    change("UPDATE batches_batch SET pause_reason = 'requested'")
    steer_waiting_batches()
    assert [lease.state for lease in leases()] == ["paused"]
    change("UPDATE batches_batch SET pause_reason = ''")
    steer_waiting_batches()
    assert [lease.state for lease in leases()] == ["waiting"]


def test_wishes_at_the_same_time_end_in_one_of_them(cast: Cast) -> None:
    batch = running(cast)
    for _ in range(5):
        at_once(*[lambda: ask(cast, batch, "pause"), lambda: ask(cast, batch, "resume")] * 3)
        steer_waiting_batches()
        state = {True: "paused", False: "waiting"}[retrieve(cast.alice, batch)["paused"]]
        assert [lease.state for lease in leases()] == [state]
