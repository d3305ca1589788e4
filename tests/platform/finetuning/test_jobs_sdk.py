"""The unmodified ``openai`` SDK, strict, over a job's whole life."""

from typing import Any

import pytest
from openai import ConflictError
from openai.types.fine_tuning import FineTuningJob

from tests.support.cast import MODEL, Cast
from tests.support.jobs import (
    checkpoint,
    claim,
    complete,
    examples,
    metrics,
    train,
    try_models,
    upload_checkpoint,
)
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def test_a_job_is_made_watched_paused_resumed_and_succeeds(cast: Cast, server: Server) -> None:
    with sdk(server, cast.alice) as client:
        jobs = client.fine_tuning.jobs
        file = client.files.create(file=("rows.jsonl", examples(20)), purpose="fine-tune")
        job = jobs.create(
            model=MODEL,
            training_file=file.id,
            suffix="support",
            seed=7,
            metadata={"team": "support"},
            method={
                "type": "supervised",
                "supervised": {
                    "hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
                },
            },
        )
        assert (job.status, job.hyperparameters.n_epochs, job.metadata) == (
            "validating_files", "auto", {"team": "support"},
        )  # fmt: skip
        run_control()
        queued = jobs.retrieve(job.id)
        assert (queued.status, queued.hyperparameters.n_epochs) == ("queued", 15)
        assert queued.method is not None
        assert queued.method.supervised is not None
        assert queued.method.supervised.hyperparameters is not None
        assert queued.method.supervised.hyperparameters.batch_size == 4
        grant = claim()
        assert jobs.retrieve(job.id).status == "running"
        upload_checkpoint(grant, 1)
        grant.report(
            metrics(1, 1, 10, valid_loss=0.5), checkpoint(2, 1, metrics={"train_loss": 1.0, "valid_loss": 0.5})
        )
        paused = jobs.pause(job.id)
        assert (paused.status, _ours(paused, "paused")) == ("queued", True)
        grant.fail("paused")
        assert _ours(jobs.resume(job.id), "paused") is False
        following = claim("trainer-2")
        train(following, {"progress": _ours(queued, "progress")}, first=3)
        complete(following)
        done = jobs.retrieve(job.id)
        assert (done.status, done.error) == ("succeeded", None)
        assert done.trained_tokens == _ours(done, "progress")["total_tokens"]
        assert done.fine_tuned_model is not None
        assert client.models.retrieve(done.fine_tuned_model).owned_by == cast.alice.organization.wire_id
        (found,) = jobs.checkpoints.list(job.id).data
        assert (found.step_number, found.metrics.full_valid_loss) == (1, 0.5)
        events = list(jobs.list_events(job.id, limit=3))
        assert len(events) > 3
        assert {event.type for event in events} == {"message", "metrics"}
        assert [listed.id for listed in jobs.list(metadata={"team": "support"})] == [job.id]
        assert list(jobs.list(metadata={"team": "sales"})) == []
        (result_file,) = done.result_files
        assert client.files.content(result_file).text.startswith("step,train_loss,train_accuracy,valid_loss,")
        with pytest.raises(ConflictError):
            jobs.cancel(job.id)


def test_a_job_is_cancelled_and_its_checkpoint_deleted(cast: Cast, server: Server) -> None:
    with sdk(server, cast.alice) as client:
        file = client.files.create(file=("rows.jsonl", examples(20)), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=MODEL, training_file=file.id, hyperparameters={"n_epochs": 1}, extra_body={"max_cost": "5.00"}
        )
        run_control()
        grant = claim()
        upload_checkpoint(grant, 1)
        grant.report(metrics(1, 1, 10), checkpoint(2, 1))
        cancelled = client.fine_tuning.jobs.cancel(job.id)
        assert (cancelled.status, cancelled.trained_tokens) == ("cancelled", 10)
        run_control()
        try_models(grant.worker)
        (found,) = client.fine_tuning.jobs.checkpoints.list(job.id).data
        assert client.models.delete(found.fine_tuned_model_checkpoint).deleted is True
        assert client.files.delete(file.id).deleted is True


def test_a_failed_job_says_why(cast: Cast, server: Server) -> None:
    with sdk(server, cast.alice) as client:
        file = client.files.create(file=("rows.jsonl", b'{"messages": []}\n'), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
        run_control()
        failed = client.fine_tuning.jobs.retrieve(job.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert (failed.error.code, failed.error.param) == ("invalid_training_data", "training_file")


async def test_preferences_by_the_asynchronous_client(cast: Cast, server: Server) -> None:
    row = (
        b'{"input": {"messages": [{"role": "user", "content": "Q"}]}, '
        b'"preferred_output": [{"role": "assistant", "content": "yes"}], '
        b'"non_preferred_output": [{"role": "assistant", "content": "no"}]}\n'
    )
    async with async_sdk(server, cast.alice) as client:
        file = await client.files.create(file=("rows.jsonl", row * 4), purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            model=MODEL,
            training_file=file.id,
            method={"type": "dpo", "dpo": {"hyperparameters": {"beta": "auto", "n_epochs": 2, "batch_size": 2}}},
        )
        assert job.method is not None
        assert job.method.dpo is not None
        assert job.method.dpo.hyperparameters is not None
        assert (job.method.dpo.hyperparameters.beta, job.method.dpo.hyperparameters.n_epochs) == ("auto", 2)
        assert [listed.id async for listed in client.fine_tuning.jobs.list()] == [job.id]


def _ours(job: FineTuningJob, name: str) -> Any:
    return (job.model_extra or {})[name]
