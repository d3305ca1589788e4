"""A tenant with at least one row of every kind, made the way customers and workers make them."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.cast import Member
from tests.support.model import add_model
from tests.support.rows import jsonl, line, submit
from tests.support.worker import Worker, run_control


@dataclass(frozen=True)
class Everything:
    """Ids of what the member has."""

    file_id: str
    batch_id: str
    finished_batch_id: str


def make_everything(member: Member, folder: Path) -> Everything:
    """A finished batch with a failed row, another one that waits, a file that nobody uses."""
    add_model(folder / "model")
    worker = Worker()
    finished = submit(member, jsonl([line(1), line(2), {"custom_id": "bad"}]), on_invalid="skip")
    run_control()
    worker.answer_all()
    run_control()
    waiting = submit(member, jsonl([line(1)]))
    unused = member.client.upload(b"{}\n").json()
    return Everything(unused["id"], waiting["id"], finished["id"])
