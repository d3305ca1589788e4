"""Fine-tuning jobs as customers make them and a node trains them, one step at a time."""

from typing import Any

import orjson

from tests.support.adapter_files import adapter_contents
from tests.support.cast import MODEL, Member
from tests.support.worker import Grant, Worker, run_control

JOBS = "/v1/fine_tuning/jobs"
ADAPTER = adapter_contents()
STATE = {"state.json": b"{}", "state.safetensors": b"state"}


def examples(count: int) -> bytes:
    """A training file of so many conversations."""
    rows = [
        {"messages": [{"role": "user", "content": f"Q{number:04}"}, {"role": "assistant", "content": "A"}]}
        for number in range(count)
    ]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def training_file(member: Member, count: int = 20) -> str:
    """Upload such a file; its id."""
    answer = member.client.upload(examples(count), purpose="fine-tune")
    assert answer.status_code == 200, answer.content
    file_id: str = answer.json()["id"]
    return file_id


def ask(member: Member, **fields: Any) -> Any:
    """``POST /v1/fine_tuning/jobs``; the answer, whatever it is."""
    headers = fields.pop("headers", {})
    if "training_file" not in fields:
        fields["training_file"] = training_file(member)
    return member.client.post(JOBS, {"model": MODEL, "seed": 7, **fields}, headers=headers)


def create(member: Member, **fields: Any) -> Any:
    """A new job."""
    answer = ask(member, **fields)
    assert answer.status_code == 200, answer.content
    return answer.json()


def queue(member: Member, **fields: Any) -> Any:
    """A job whose data is prepared and whose training waits."""
    job = create(member, **fields)
    run_control()
    return retrieve(member, job)


def retrieve(member: Member, job: Any) -> Any:
    """The job as it is now."""
    answer = member.client.get(f"{JOBS}/{job['id']}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def act(member: Member, job: Any, action: str, **fields: Any) -> Any:
    """Cancel, pause or resume; the answer."""
    return member.client.post(f"{JOBS}/{job['id']}/{action}", fields or None)


def events_of(member: Member, job: Any, **query: Any) -> list[Any]:
    """Its events, oldest first."""
    answer = member.client.get(f"{JOBS}/{job['id']}/events", data={"limit": 100, "order": "asc", **query})
    assert answer.status_code == 200, answer.content
    found: list[Any] = answer.json()["data"]
    return found


def trainer_node(name: str = "trainer-1", **report: Any) -> Worker:
    """A node that trains, and whose engine takes adapters."""
    worker = Worker(name=name)
    assert worker.report(trains=True, **report).status_code == 200
    return worker


def claim(name: str = "trainer-1") -> Grant:
    """The training that is next, claimed by a node."""
    return trainer_node(name).lease(kind="training")


def metrics(seq: int, step: int, trained_tokens: int, **changes: Any) -> dict[str, Any]:
    """What a trainer reports of a step."""
    return {
        "seq": seq, "kind": "metrics", "step": step, "epoch": 0.5, "train_loss": 1 / step,
        "train_token_accuracy": 0.5, "learning_rate": 0.0001, "grad_norm": 1.0, "tokens_per_second": 100.0,
        "trained_tokens": trained_tokens, **changes,
    }  # fmt: skip


def checkpoint(seq: int, step: int, **changes: Any) -> dict[str, Any]:
    """A trainer has saved one."""
    return {
        "seq": seq,
        "kind": "checkpoint",
        "step": step,
        "path": f"checkpoints/step-{step}",
        "metrics": {},
        **changes,
    }


def done(seq: int, step: int, trained_tokens: int) -> dict[str, Any]:
    """A trainer has come to its end."""
    return {"seq": seq, "kind": "done", "step": step, "trained_tokens": trained_tokens, "best_step": step}


def upload_checkpoint(grant: Grant, step: int) -> None:
    """Put its files."""
    for name, content in {**ADAPTER, **STATE}.items():
        stored = grant.upload(f"checkpoints/step-{step}/{name}", content)
        assert stored.status_code == 201, stored.content


def upload_adapter(grant: Grant, **changes: bytes) -> None:
    """Put the trained adapter and a log."""
    for name, content in adapter_contents(**changes).items():
        assert grant.upload(f"adapter/{name}", content).status_code == 201
    assert grant.upload("logs/000001.events.out.tfevents.1", b"log").status_code == 201


def train(grant: Grant, job: Any, *, steps: int = 3, first: int = 1, **adapter: bytes) -> int:
    """Train to the end, without completing; how many tokens that were. ``first`` is the number of the next event."""
    tokens: int = job["progress"]["total_tokens"]
    for step in range(1, steps + 1):
        assert grant.report(metrics(first + step - 1, step, tokens * step // steps)).status_code == 200
    upload_adapter(grant, **adapter)
    assert grant.report(done(first + steps, steps, tokens)).status_code == 200
    return tokens


def complete(grant: Grant) -> None:
    """Bring a trained job to its end: published, tried, concluded."""
    completed = grant.complete()
    assert completed.status_code == 200, completed.content
    run_control()
    try_models(grant.worker)
    run_control()


def try_models(worker: Worker) -> int:
    """Let a node try every model that waits for that, with success; how many."""
    tried = 0
    for trial in worker.leases("canary"):
        assert trial.complete().status_code == 200
        tried += 1
    return tried


def finish(member: Member, job: Any) -> Any:
    """Train and conclude a queued job; the job as it is then."""
    grant = claim()
    train(grant, job)
    complete(grant)
    return retrieve(member, job)
