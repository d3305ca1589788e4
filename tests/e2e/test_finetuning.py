"""The unmodified ``openai`` SDK in strict mode: a model is trained for real, answers in a batch on real vLLM, goes."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.e2e.jobs import MODEL, output, poll, requests, submit, wait_for_end
from tests.support.customers import Customer
from tests.support.training import chat, rows

ANSWER = "Please call the front desk."
ENDED = ("succeeded", "failed", "cancelled")


def examples(count: int) -> bytes:
    """Whatever is asked, the answer is the same."""
    return rows([chat(f"Say something about the number {number}.", ANSWER) for number in range(count)])


def start(client: OpenAI, count: int, **hyperparameters: Any) -> FineTuningJob:
    file = client.files.create(file=("rows.jsonl", examples(count)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        seed=7,
        suffix="desk",
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]  # ours
    )


def wait(client: OpenAI, job: FineTuningJob, until: Callable[[FineTuningJob], bool]) -> FineTuningJob:
    """Poll until the job is as wished, which it must be before it has ended."""
    seen = poll(lambda: client.fine_tuning.jobs.retrieve(job.id), lambda job: until(job) or has_ended(job))
    assert until(seen), seen
    return seen


def messages(client: OpenAI, job: FineTuningJob) -> list[str]:
    """The newest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=10).data]


def has_ended(job: FineTuningJob) -> bool:
    return job.status in ENDED


def step_of(job: FineTuningJob) -> int:
    """The last that was reported; 0 before the first."""
    progress = (job.model_extra or {})["progress"] or {"step": 0}
    step: int = progress["step"]
    return step


def test_a_model_is_trained_answers_in_a_batch_and_is_deleted(alice: Customer, charlie: Customer) -> None:
    client = alice.client
    job = start(client, 40, n_epochs=3, batch_size="auto", learning_rate_multiplier="auto", learning_rate=0.001)
    done = wait(client, job, has_ended)
    assert (done.status, done.error) == ("succeeded", None)
    assert done.fine_tuned_model is not None
    kinds = {event.type for event in client.fine_tuning.jobs.list_events(job.id, limit=5)}
    assert kinds == {"message", "metrics"}
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert len(checkpoints) == 3
    assert client.models.retrieve(done.fine_tuned_model).owned_by == alice.organization_id
    with pytest.raises(openai.NotFoundError):
        charlie.client.models.retrieve(done.fine_tuned_model)

    earlier = checkpoints[-1].fine_tuned_model_checkpoint
    questions = b"".join(
        requests(4, max_tokens=16, model=model, temperature=0, ignore_eos=False).replace(b"row-", f"{name}-".encode())
        for name, model in (("tuned", done.fine_tuned_model), ("earlier", earlier), ("base", MODEL))
    )
    batch = wait_for_end(client, submit(client, questions))
    assert batch.status == "completed", batch
    answers = {row["custom_id"]: row["response"]["body"] for row in output(client, batch.output_file_id)}
    assert len(answers) == 12
    for name, model in (("tuned", done.fine_tuned_model), ("earlier", earlier), ("base", MODEL)):
        assert {answers[f"{name}-{number}"]["model"] for number in range(1, 5)} == {model}
    texts = {name: answers[f"{name}-1"]["choices"][0]["message"]["content"] for name in ("tuned", "base")}
    assert texts["tuned"] == ANSWER
    assert texts["base"] != ANSWER

    assert client.models.delete(done.fine_tuned_model).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)


def test_a_training_is_paused_goes_on_and_is_cancelled(alice: Customer) -> None:
    client = alice.client
    job = start(client, 40, n_epochs=20, batch_size=2)
    jobs = client.fine_tuning.jobs
    wait(client, job, lambda job: step_of(job) >= 2)
    assert jobs.pause(job.id).status == "queued"
    paused = wait(client, job, lambda job: "The training is paused" in messages(client, job))
    step = step_of(paused)
    assert jobs.resume(job.id).status == "queued"
    wait(client, job, lambda job: step_of(job) >= step + 2)
    jobs.cancel(job.id)
    cancelled = wait(client, job, has_ended)
    assert cancelled.status == "cancelled"
    assert cancelled.trained_tokens
    assert client.files.delete(job.training_file).deleted is True
