"""What a node brings: events and artefacts, each once, in their order, from whoever holds the training."""

from typing import Any

import pytest

from tests.support.blobs import blobs
from tests.support.cast import Cast
from tests.support.facts import count, query_owner
from tests.support.jobs import (
    ADAPTER,
    STATE,
    checkpoint,
    claim,
    done,
    events_of,
    metrics,
    queue,
    retrieve,
    trainer_node,
    upload_adapter,
    upload_checkpoint,
)
from tests.support.worker import Grant, Worker

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def job(cast: Cast) -> Any:
    return queue(cast.alice)


@pytest.fixture
def grant(job: Any) -> Grant:
    return claim()


def metric_events(cast: Cast, job: Any) -> list[Any]:
    return [event for event in events_of(cast.alice, job) if event["type"] == "metrics"]


def test_metrics_are_events_and_points(cast: Cast, job: Any, grant: Grant) -> None:
    assert grant.report(metrics(1, 1, 40, valid_loss=0.9, train_reward_margin=0.25)).status_code == 200
    (event,) = metric_events(cast, job)
    assert event["message"] == f"Step 1/{job['progress']['total_steps']}: training loss 1.0000"
    assert event["data"] == {
        "step": 1, "epoch": 0.5, "train_loss": 1.0, "train_mean_token_accuracy": 0.5, "valid_loss": 0.9,
        "valid_mean_token_accuracy": None, "learning_rate": 0.0001, "grad_norm": 1.0, "tokens_per_second": 100.0,
        "trained_tokens": 40, "train_reward_margin": 0.25,
    }  # fmt: skip
    assert retrieve(cast.alice, job)["progress"]["step"] == 1


def test_events_that_come_again_count_once(cast: Cast, job: Any, grant: Grant) -> None:
    first = [metrics(1, 1, 40), {"seq": 2, "kind": "message", "level": "warn", "message": "careful"}]
    for _ in range(2):
        assert grant.report(*first).status_code == 200
    assert grant.report(*first, metrics(3, 2, 80)).status_code == 200
    assert [event["data"]["step"] for event in metric_events(cast, job)] == [1, 2]
    assert [event["message"] for event in events_of(cast.alice, job) if event["level"] == "warn"] == ["careful"]


def test_a_step_that_is_made_again_is_one_point(cast: Cast, job: Any, grant: Grant) -> None:
    assert grant.report(metrics(1, 1, 40), metrics(2, 2, 80), metrics(3, 2, 80), metrics(4, 1, 40)).status_code == 200
    assert [event["data"]["step"] for event in metric_events(cast, job)] == [1, 2]
    assert count("finetuning_metricpoint") == 2


def test_events_with_a_gap_are_refused(cast: Cast, job: Any, grant: Grant) -> None:
    before = events_of(cast.alice, job)
    for events in ([metrics(2, 1, 40)], [metrics(1, 1, 40), metrics(3, 2, 80)], [metrics(2, 1, 1), metrics(1, 1, 1)]):
        answer = grant.report(*events)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "events_out_of_order")
    assert events_of(cast.alice, job) == before


def test_more_events_than_allowed_are_refused(grant: Grant) -> None:
    answer = grant.report(*(metrics(seq, seq, seq) for seq in range(1, 502)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert count("finetuning_metricpoint") == 0


def test_a_checkpoint_needs_its_files_first(cast: Cast, grant: Grant) -> None:
    for name in (*ADAPTER, *STATE):
        answer = grant.report(metrics(1, 5, 10), checkpoint(2, 5))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifacts_missing")
        assert name in answer.json()["error"]["message"]
        grant.upload(f"checkpoints/step-5/{name}", {**ADAPTER, **STATE}[name])
    assert count("finetuning_checkpoint") == count("finetuning_metricpoint") == 0
    assert grant.report(metrics(1, 5, 10), checkpoint(2, 5)).status_code == 200
    assert count("finetuning_checkpoint") == 1


def test_the_end_needs_the_adapter_and_a_word_of_the_trainer(cast: Cast, job: Any, grant: Grant) -> None:
    upload_adapter(grant)
    answer = grant.complete()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifacts_missing")
    grant.report(done(1, 3, 10))
    assert grant.complete().status_code == 200
    assert retrieve(cast.alice, job)["status"] == "running"


def test_a_trainer_that_is_done_without_an_adapter_cannot_complete(grant: Grant) -> None:
    grant.report(done(1, 3, 10))
    assert grant.complete().json()["error"]["code"] == "artifacts_missing"


def test_an_artifact_is_stored_once_and_replaced_by_other_bytes(grant: Grant) -> None:
    before = blobs()
    path = "logs/one"
    assert [grant.upload(path, data).status_code for data in (b"a", b"a", b"b")] == [201, 200, 201]
    assert grant.download(f"artifacts/{path}").getvalue() == b"b"
    assert len(blobs() - before) == 1


def test_a_reported_checkpoint_never_changes(grant: Grant) -> None:
    upload_checkpoint(grant, 5)
    grant.report(checkpoint(1, 5))
    before = blobs()
    answer = grant.upload("checkpoints/step-5/state.json", b"other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "artifact_conflict")
    assert grant.upload("checkpoints/step-5/state.json", STATE["state.json"]).status_code == 200
    assert blobs() == before


def test_only_the_newest_checkpoint_keeps_what_a_training_goes_on_from(grant: Grant) -> None:
    for seq, (step, interim) in enumerate([(1, True), (2, False), (3, True)], start=1):
        upload_checkpoint(grant, step)
        assert grant.report(checkpoint(seq, step, interim=interim)).status_code == 200
    paths = {path for (path,) in query_owner("SELECT path FROM finetuning_artifact")} - {"inputs/train.ndjson"}
    newest = {f"checkpoints/step-3/{name}" for name in (*ADAPTER, *STATE)}
    assert paths == newest | {f"checkpoints/step-2/{name}" for name in ADAPTER}


@pytest.mark.parametrize("path", ["inputs/train.ndjson", "../x", "a//b", ".hidden", "logs/..", "x" * 201])
def test_nothing_can_be_put_where_it_does_not_belong(grant: Grant, path: str) -> None:
    before = blobs()
    answer = grant.upload(path, b"data")
    assert answer.status_code in (400, 404)
    assert blobs() == before


def test_damaged_bytes_are_refused(grant: Grant) -> None:
    before = blobs()
    answer = grant.upload("logs/one", b"data", sha256="0" * 64)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "checksum_mismatch")
    assert blobs() == before


def test_the_holder_gets_its_inputs_and_nobody_else_does(cast: Cast, job: Any, grant: Grant) -> None:
    answer = grant.download("inputs/train.ndjson")
    data = answer.getvalue()
    assert len(data.splitlines()) == job["dataset"]["train"]["rows"]
    assert int(answer.headers["Content-Length"]) == grant.work["inputs"]["train.ndjson"]["bytes"] == len(data)
    queue(cast.charlie)
    stranger = trainer_node("trainer-2").lease(kind="training")
    mixed = Grant(stranger.worker, grant.id, stranger.token, stranger.epoch, {})
    for call in (mixed.download("inputs/train.ndjson"), mixed.report(metrics(1, 1, 1)), mixed.upload("logs/a", b"a")):
        assert (call.status_code, call.json()["error"]["code"]) == (409, "lease_lost")
    assert grant.download("inputs/nothing").status_code == 404
    assert grant.download("artifacts/inputs/train.ndjson").getvalue() == data


def test_what_was_lost_is_refused(cast: Cast, job: Any, grant: Grant) -> None:
    before = blobs()
    grant.fail("trainer_died")
    for call in (
        grant.report(metrics(1, 1, 1)), grant.upload("logs/a", b"a"), grant.download("inputs/train.ndjson"),
    ):  # fmt: skip
        assert (call.status_code, call.json()["error"]["code"]) == (409, "lease_lost")
    assert blobs() == before
    assert metric_events(cast, job) == []


def test_only_a_node_that_says_so_gets_trainings(cast: Cast, job: Any) -> None:
    plain = Worker(name="plain")
    assert plain.request_lease(kinds=["training"]).status_code == 204
    starting = Worker(name="starting")
    starting.report(state="starting", trains=True)
    assert starting.request_lease(kinds=["batch_shard"]).status_code == 204
    assert starting.request_lease(kinds=["training"]).status_code == 200


def test_trainings_are_shared_out_by_organisation_whatever_else_waits(cast: Cast) -> None:
    mine = [queue(cast.alice), queue(cast.alice)]
    queue(cast.charlie)
    owners = [claim(f"trainer-{number}").work["job_id"] for number in range(3)]
    assert owners[0] == mine[0]["id"]
    assert owners[2] == mine[1]["id"]
