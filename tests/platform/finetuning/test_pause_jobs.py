"""Pause and resume: the trainer saves a checkpoint, lets go, and another goes on from there."""

import pytest

from tests.support.cast import Cast
from tests.support.facts import query_owner
from tests.support.jobs import (
    act,
    checkpoint,
    claim,
    complete,
    create,
    finish,
    metrics,
    queue,
    retrieve,
    train,
    trainer_node,
    upload_checkpoint,
)
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def audited(job: dict[str, str]) -> list[str]:
    rows = query_owner("SELECT action FROM tenants_auditevent WHERE subject = %s ORDER BY id", job["id"])
    return [str(action).removeprefix("fine_tuning_job.") for (action,) in rows]


def test_a_waiting_job_is_not_handed_out_while_it_is_paused(cast: Cast) -> None:
    job = queue(cast.alice)
    paused = act(cast.alice, job, "pause").json()
    assert (paused["status"], paused["paused"], paused["waiting_reason"]) == ("queued", True, "paused")
    node = trainer_node()
    assert node.request_lease(kinds=["training"]).status_code == 204
    resumed = act(cast.alice, job, "resume").json()
    assert (resumed["paused"], resumed["waiting_reason"]) == (False, "queued")
    assert node.request_lease(kinds=["training"]).status_code == 200
    assert audited(job) == ["created", "paused", "resumed"]


def test_a_running_job_shows_queued_from_the_moment_it_is_paused(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    assert act(cast.alice, job, "pause").json()["status"] == "queued"
    assert grant.heartbeat() == "pause"
    grant.report(metrics(1, 3, 100))
    upload_checkpoint(grant, 3)
    grant.report(checkpoint(2, 3, interim=True))
    grant.fail("paused")
    act(cast.alice, job, "resume")
    following = claim("trainer-2")
    assert following.work["resume"]["step"] == 3
    assert retrieve(cast.alice, job)["status"] == "running"


def test_a_pause_that_is_taken_back_in_time_stops_nobody(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    act(cast.alice, job, "pause")
    assert act(cast.alice, job, "resume").json()["status"] == "running"
    assert grant.heartbeat() == "continue"
    train(grant, job)
    complete(grant)
    assert retrieve(cast.alice, job)["status"] == "succeeded"


def test_a_pause_that_comes_too_late_does_not_hold_up_the_result(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    train(grant, job)
    act(cast.alice, job, "pause")
    complete(grant)
    job = retrieve(cast.alice, job)
    assert (job["status"], job["paused"]) == ("succeeded", False)


def test_a_job_that_is_paused_while_its_files_are_validated_waits_afterwards(cast: Cast) -> None:
    job = create(cast.alice)
    assert act(cast.alice, job, "pause").json()["paused"] is True
    run_control()
    assert trainer_node().request_lease(kinds=["training"]).status_code == 204
    job = retrieve(cast.alice, job)
    assert (job["status"], job["waiting_reason"], job["dataset"]["train"]["rows"]) == ("queued", "paused", 20)
    act(cast.alice, job, "resume")
    assert claim().work["job_id"] == job["id"]


def test_pausing_and_resuming_again_is_harmless(cast: Cast) -> None:
    job = queue(cast.alice)
    for _ in range(2):
        assert act(cast.alice, job, "pause").status_code == 200
    assert audited(job) == ["created", "paused"]
    for _ in range(2):
        assert act(cast.alice, job, "resume").status_code == 200
    assert retrieve(cast.alice, job)["paused"] is False


def test_a_paused_job_can_be_cancelled(cast: Cast) -> None:
    job = queue(cast.alice)
    act(cast.alice, job, "pause")
    cancelled = act(cast.alice, job, "cancel").json()
    assert (cancelled["status"], cancelled["paused"]) == ("cancelled", False)
    assert act(cast.alice, job, "cancel").json() == cancelled
    for action in ("pause", "resume"):
        refused = act(cast.alice, job, action)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")


def test_what_has_succeeded_can_neither_be_paused_nor_cancelled(cast: Cast) -> None:
    job = finish(cast.alice, queue(cast.alice))
    for action in ("pause", "resume", "cancel"):
        refused = act(cast.alice, job, action)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert refused.headers["x-should-retry"] == "false"
    assert retrieve(cast.alice, job) == job


def test_what_is_trained_cannot_be_paused_but_cancelled_until_its_model_is_ready(cast: Cast) -> None:
    for steps in (0, 1, 2):
        job = queue(cast.alice)
        grant = claim(f"trainer-{steps}")
        train(grant, job)
        grant.complete()
        if steps > 0:
            run_control()
        if steps > 1:
            grant.worker.lease(kind="canary").complete()
        assert act(cast.alice, job, "pause").status_code == 409
        assert act(cast.alice, job, "cancel").status_code == (409 if steps > 1 else 200)
        run_control()
    models = query_owner("SELECT state, refusal FROM catalog_finetunedmodel ORDER BY id")
    assert models == [("refused", "its job has cancelled"), ("ready", "")]


def test_a_body_with_anything_in_it_is_refused(cast: Cast) -> None:
    job = queue(cast.alice)
    assert act(cast.alice, job, "pause", reason="x").json()["error"]["code"] == "unknown_parameter"
    assert act(cast.alice, job, "resume", reason="x").json()["error"]["code"] == "unknown_parameter"
    assert retrieve(cast.alice, job)["paused"] is False
