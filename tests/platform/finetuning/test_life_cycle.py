"""From data to a model: the states of a job, and what a node has to do with them."""

import pytest

from tests.support.cast import MODEL, Cast
from tests.support.jobs import (
    create,
    retrieve,
    train,
    trainer_node,
)
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def test_a_job_goes_from_its_files_to_a_model(cast: Cast) -> None:
    job = create(cast.alice, suffix="support")
    assert (job["status"], job["fine_tuned_model"], job["trained_tokens"]) == ("validating_files", None, None)
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["waiting_reason"]) == ("queued", "no_node")
    node = trainer_node()
    job = retrieve(cast.alice, job)
    assert (job["waiting_reason"], job["queue_position"]) == ("queued", 1)
    grant = node.lease(kind="training")
    job = retrieve(cast.alice, job)
    assert (job["status"], job["waiting_reason"], job["queue_position"]) == ("running", None, None)
    tokens = train(grant, job)
    assert grant.complete().status_code == 200
    assert retrieve(cast.alice, job)["status"] == "running"
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["trained_tokens"], job["error"]) == ("succeeded", tokens, None)
    assert job["fine_tuned_model"].startswith(f"ft:{MODEL}:")
    assert job["finished_at"] >= job["created_at"]
