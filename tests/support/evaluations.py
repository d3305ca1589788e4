"""A job with held-out rows, as a node evaluates it."""

from collections.abc import Callable
from typing import Any

import orjson

from tests.support.cast import Member
from tests.support.jobs import JOBS, claim, queue, train
from tests.support.worker import Grant, Worker, run_control

ROWS = 12
Answers = Callable[[dict[str, Any]], tuple[str | None, str | None]]
"""What base and tuned model say to a row."""


def held_out(member: Member, count: int = ROWS) -> str:
    """Upload a file of so many labelled conversations, every third of them wrong; its id."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Q{number}"},
                {"role": "assistant", "content": "no" if number % 3 == 0 else "yes"},
            ],
            "metadata": {"lang": "zh" if number % 2 else "en"},
        }
        for number in range(1, count + 1)
    ]
    content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    answer = member.client.upload(content, purpose="fine-tune")
    assert answer.status_code == 200, answer.content
    file_id: str = answer.json()["id"]
    return file_id


def trained(member: Member, **fields: Any) -> Any:
    """A job whose model is ready and waits to be evaluated on rows that are answered yes or no."""
    file = held_out(member)
    mapping = {"choices": ["yes", "no"], "slice": "lang"}
    job = queue(
        member, **{"training_file": file, "validation_file": file, "column_mapping": mapping, **fields}
    )  # fmt: skip
    grant = claim()
    train(grant, job)
    assert grant.complete().status_code == 200
    run_control()
    assert grant.worker.lease(kind="canary").complete().status_code == 200
    return job


def results_of(grant: Grant, answers: Answers) -> bytes:
    """The results that a node would put."""
    rows = grant.download("inputs/evaluation.ndjson").getvalue().splitlines()
    lines = []
    for row in map(orjson.loads, rows):
        said = zip(("base", "tuned"), answers(row), (2.0, 1.0), strict=True)
        lines.append(
            {"line": row["line"]}
            | {
                system: {"text": text, "loss": loss, "tokens": 2, "input_tokens": 10, "output_tokens": 1}
                for system, text, loss in said
            }
        )
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def better(row: dict[str, Any]) -> tuple[str, str]:
    """The base always says yes, the tuned model is right."""
    return "yes", row["reference"]


def evaluate(answers: Answers = better, *, worker: Worker | None = None) -> None:
    """Have a node evaluate what waits for it, and the control plane judge that."""
    hand_in((worker or Worker(name="evaluator")).lease(kind="evaluation"), answers)
    run_control()


def hand_in(grant: Grant, answers: Answers = better) -> None:
    """What the node of this evaluation does."""
    assert grant.upload("evaluation.ndjson", results_of(grant, answers)).status_code == 201
    assert grant.complete().status_code == 200


def evaluate_what_waits(worker: Worker) -> int:
    """Let a node do every evaluation that waits; how many."""
    done = 0
    for grant in worker.leases("evaluation"):
        hand_in(grant)
        done += 1
    return done


def evaluation_of(member: Member, job: Any) -> Any:
    """``GET /v1/fine_tuning/jobs/{id}/evaluation``."""
    answer = member.client.get(f"{JOBS}/{job['id']}/evaluation")
    assert answer.status_code == 200, answer.content
    return answer.json()
