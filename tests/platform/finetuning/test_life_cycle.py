"""From data to a model: the states of a job, and what can become of each of its parts."""

import json

import pytest

from fleet.services import sweep_leases
from tests.support.adapter_files import CONFIG
from tests.support.cast import MODEL, Cast
from tests.support.facts import let_back_off_pass, let_leases_run_out
from tests.support.jobs import (
    act,
    checkpoint,
    claim,
    complete,
    create,
    events_of,
    finish,
    metrics,
    queue,
    retrieve,
    train,
    trainer_node,
    training_file,
    upload_checkpoint,
)
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def messages(cast: Cast, job: object) -> list[str]:
    return [event["message"] for event in events_of(cast.alice, job) if event["type"] == "message"]


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
    assert (job["status"], job["fine_tuned_model"]) == ("running", None)
    assert node.lease(kind="canary").complete().status_code == 200
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["trained_tokens"], job["error"]) == ("succeeded", tokens, None)
    assert job["fine_tuned_model"] == f"ft:{MODEL}:alice-s-company:support:{job['id'][-12:]}"
    assert job["finished_at"] >= job["created_at"]
    assert cast.alice.client.get(f"/v1/models/{job['fine_tuned_model']}").json()["status"] == "ready"
    assert messages(cast, job) == [
        "Created fine-tuning job; its files are being validated",
        "Files validated: 20 examples, 940 tokens an epoch",
        f"The training waits for a node that trains '{MODEL}'",
        "The training has started",
        "The training is done after 3 steps; the model is being published",
        "The model waits for a node that tries it",
        f"The job has successfully completed; the model is {job['fine_tuned_model']}",
    ]


def test_a_model_tells_where_it_comes_from(cast: Cast) -> None:
    job = finish(cast.alice, queue(cast.alice, method={"type": "supervised", "supervised": {}}))
    manifest = cast.alice.client.get(f"/v1/models/{job['fine_tuned_model']}/manifest").json()["manifest"]
    assert manifest["job"] == job["id"]
    assert manifest["dataset"] == job["dataset"]
    assert manifest["seed"] == 7
    assert manifest["hyperparameters"]["n_epochs"] == job["hyperparameters"]["n_epochs"]


def test_bad_rows_fail_the_job_with_line_and_cure(cast: Cast) -> None:
    good = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    file = cast.alice.client.upload(good + b'{"messages": []}\n{"messages": []}\n', purpose="fine-tune").json()
    job = queue(cast.alice, training_file=file["id"])
    assert (job["status"], job["error"]["code"], job["error"]["param"]) == (
        "failed", "invalid_training_data", "training_file",
    )  # fmt: skip
    assert job["error"]["message"].startswith("Line 2, /messages: ")
    assert job["error"]["message"].endswith("(and 1 more)")
    assert events_of(cast.alice, job)[-1]["level"] == "error"


def test_an_interrupted_training_goes_on_from_its_last_checkpoint(cast: Cast) -> None:
    job = queue(cast.alice)
    first = claim()
    assert first.work["resume"] is None
    assert first.report(metrics(1, 1, 50)).status_code == 200
    upload_checkpoint(first, 1)
    assert first.report(checkpoint(2, 1, interim=True), metrics(3, 2, 100)).status_code == 200
    let_leases_run_out()
    sweep_leases()
    assert retrieve(cast.alice, job)["status"] == "queued"
    let_back_off_pass()
    second = claim("trainer-2")
    assert (second.work["resume"]["step"], second.work["events_seen"]) == (1, 3)
    assert sorted(second.work["resume"]["files"]) == [
        "adapter_config.json", "adapter_model.safetensors", "state.json", "state.safetensors",
    ]  # fmt: skip
    assert second.download("artifacts/checkpoints/step-1/state.json").getvalue() == b"{}"
    assert retrieve(cast.alice, job)["status"] == "running"
    assert first.report(metrics(4, 3, 150)).status_code == 409
    assert first.complete().status_code == 409
    assert messages(cast, job)[-2:] == [
        "The training was interrupted and will go on from its last checkpoint: The holder of the work went silent",
        "The training goes on",
    ]


def test_a_training_that_brings_no_checkpoint_is_given_up_after_some_tries(cast: Cast) -> None:
    job = queue(cast.alice)
    for attempt in range(5):
        assert retrieve(cast.alice, job)["status"] == "queued"
        assert claim(f"trainer-{attempt}").fail("trainer_died", message="status -9").status_code == 200
        let_back_off_pass()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["error"]["code"]) == ("failed", "training_failed")
    assert job["error"]["message"] == "status -9"


def test_a_checkpoint_makes_an_interruption_no_failure(cast: Cast) -> None:
    job = queue(cast.alice)
    for attempt in range(1, 8):
        grant = claim(f"trainer-{attempt}")
        upload_checkpoint(grant, attempt)
        assert grant.report(checkpoint(attempt, attempt, interim=True)).status_code == 200
        grant.fail("trainer_died")
        let_back_off_pass()
    assert retrieve(cast.alice, job)["status"] == "queued"


def test_a_training_that_cannot_go_on_fails_the_job(cast: Cast) -> None:
    job = queue(cast.alice)
    claim().fail("diverged", message="the loss is no longer a number at step 3", retryable=False)
    job = retrieve(cast.alice, job)
    assert (job["status"], job["error"]) == (
        "failed",
        {"code": "training_failed", "message": "the loss is no longer a number at step 3", "param": None},
    )


def test_an_adapter_that_cannot_be_served_fails_the_job(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    train(grant, job, config=json.dumps({**CONFIG, "use_dora": True}).encode())
    assert grant.complete().status_code == 200
    run_control()
    job = retrieve(cast.alice, job)
    assert (job["status"], job["error"]["code"]) == ("failed", "adapter_refused")
    assert "use_dora" in job["error"]["message"]


def test_a_model_that_does_nothing_fails_the_job(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    train(grant, job)
    grant.complete()
    run_control()
    trial = grant.worker.lease(kind="canary")
    trial.fail("canary_refused", message="It answers like the base", retryable=False)
    job = retrieve(cast.alice, job)
    assert (job["status"], job["fine_tuned_model"], job["error"]) == (
        "failed", None, {"code": "adapter_refused", "message": "It answers like the base", "param": None},
    )  # fmt: skip
    models = [model["id"] for model in cast.alice.client.get("/v1/models").json()["data"]]
    assert models == [MODEL]


def test_checkpoints_are_models_while_the_training_runs_and_whatever_becomes_of_it(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    upload_checkpoint(grant, 5)
    metrics_of = {"train_loss": 0.5, "train_token_accuracy": 0.75, "valid_loss": 0.6, "valid_token_accuracy": 0.7}
    assert grant.report(metrics(1, 5, 100), checkpoint(2, 5, metrics=metrics_of)).status_code == 200
    path = f"/v1/fine_tuning/jobs/{job['id']}/checkpoints"
    assert cast.alice.client.get(path).json()["data"] == []
    act(cast.alice, job, "cancel")
    run_control()
    (found,) = cast.alice.client.get(path).json()["data"]
    name = f"ft:{MODEL}:alice-s-company::{job['id'][-12:]}:ckpt-step-5"
    assert (found["step_number"], found["fine_tuned_model_checkpoint"]) == (5, name)
    assert found["metrics"] == {
        "step": 5, "train_loss": 0.5, "train_mean_token_accuracy": 0.75, "valid_loss": 0.6,
        "valid_mean_token_accuracy": 0.7, "full_valid_loss": 0.6, "full_valid_mean_token_accuracy": 0.7,
    }  # fmt: skip
    assert grant.worker.lease(kind="canary").complete().status_code == 200
    assert cast.alice.client.get(f"/v1/models/{name}").json()["status"] == "ready"


def test_a_job_trains_on_from_a_model_that_is_tuned_already(cast: Cast) -> None:
    parent = finish(cast.alice, queue(cast.alice))
    child = queue(cast.alice, model=parent["fine_tuned_model"], training_file=training_file(cast.alice, 30))
    grant = claim()
    assert child["method"]["supervised"]["hyperparameters"]["lora"]["r"] == CONFIG["r"]
    assert sorted(grant.work["inputs"]) == [
        "from/adapter_config.json", "from/adapter_model.safetensors", "train.ndjson",
    ]  # fmt: skip
    assert json.loads(grant.download("inputs/from/adapter_config.json").getvalue()) == CONFIG
    train(grant, child)
    complete(grant)
    child = retrieve(cast.alice, child)
    assert (child["status"], child["model"]) == ("succeeded", parent["fine_tuned_model"])


def test_a_job_trains_on_from_a_checkpoint(cast: Cast) -> None:
    parent = queue(cast.alice)
    grant = claim()
    upload_checkpoint(grant, 5)
    grant.report(checkpoint(1, 5))
    run_control()
    grant.worker.lease(kind="canary").complete()
    (found,) = cast.alice.client.get(f"/v1/fine_tuning/jobs/{parent['id']}/checkpoints").json()["data"]
    act(cast.alice, parent, "cancel")
    for origin in (found["id"], found["fine_tuned_model_checkpoint"]):
        hyperparameters = {"from_checkpoint": origin}
        queue(cast.alice, method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}})
        following = grant.worker.lease(kind="training")
        assert "from/adapter_model.safetensors" in following.work["inputs"]
