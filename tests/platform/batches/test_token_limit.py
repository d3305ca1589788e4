"""A project has only so many input tokens queued for a model; what has ended makes room again."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.cast import MODEL, Cast, Member
from tests.support.facts import query_owner
from tests.support.model import add_model
from tests.support.money import money
from tests.support.rows import cancel, jsonl, line, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, result, run_control

from fleet.tasks import run_control_work  # isort: skip


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    add_model(tmp_path / "model")


def limit(member: Member, tokens: int) -> None:
    path = f"/v1/organization/projects/{member.project.wire_id}/rate_limits/rl-{MODEL}"
    assert member.admin.post(path, {"batch_1_day_max_input_tokens": tokens}).status_code == 200


def queued() -> int:
    return int(query_owner("SELECT coalesce(sum(input_tokens), 0) FROM batches_shard WHERE pending > 0")[0][0])


def outcome(member: Member, batch: Any) -> tuple[str, list[str]]:
    found = retrieve(member, batch)
    return found["status"], [entry["code"] for entry in (found["errors"] or {"data": []})["data"]]


def size_of_one(member: Member) -> int:
    """Estimated input tokens of the batch that every test here makes; nothing is left of it."""
    first = submit(member, jsonl([line(1)]))
    run_control()
    tokens = queued()
    assert tokens > 10
    cancel(member, first)
    run_control()
    assert queued() == 0
    return tokens


def test_what_would_pass_the_limit_fails_and_holds_nothing(cast: Cast) -> None:
    size = size_of_one(cast.alice)
    limit(cast.alice, 2 * size)
    fitting = [submit(cast.alice, jsonl([line(1)])) for _ in range(2)]
    run_control()
    before = money(cast.alice)
    beyond = submit(cast.alice, jsonl([line(1)]))
    run_control()
    assert [outcome(cast.alice, batch)[0] for batch in fitting] == ["in_progress", "in_progress"]
    assert outcome(cast.alice, beyond) == ("failed", ["token_limit_exceeded"])
    message = retrieve(cast.alice, beyond)["errors"]["data"][0]["message"]
    assert f"{3 * size} input tokens" in message
    assert f"may have {2 * size}" in message
    assert (money(cast.alice), queued()) == (before, 2 * size)


def test_what_has_ended_makes_room(cast: Cast) -> None:
    size = size_of_one(cast.alice)
    limit(cast.alice, size)
    first = submit(cast.alice, jsonl([line(1)]))
    run_control()
    grant = Worker().lease()
    grant.put(0, [result(1)])
    grant.complete()
    second = submit(cast.alice, jsonl([line(1)]))
    run_control()
    assert [outcome(cast.alice, batch)[0] for batch in (first, second)] == ["completed", "in_progress"]


def test_every_project_has_a_limit_of_its_own(cast: Cast) -> None:
    limit(cast.alice, 0)
    own, others = (submit(member, jsonl([line(1)])) for member in (cast.alice, cast.charlie))
    run_control()
    assert outcome(cast.alice, own) == ("failed", ["token_limit_exceeded"])
    assert outcome(cast.charlie, others)[0] == "in_progress"


def test_two_batches_validated_at_once_count_each_other(cast: Cast) -> None:
    limit(cast.alice, size_of_one(cast.alice))
    batches = [submit(cast.alice, jsonl([line(1)])) for _ in range(2)]
    at_once(run_control_work, run_control_work)
    assert sorted(outcome(cast.alice, batch)[0] for batch in batches) == ["failed", "in_progress"]
