"""Lists of jobs, events and checkpoints: filters, pages, order."""

from typing import Any

import pytest

from tests.support.cast import MODEL, Cast
from tests.support.jobs import (
    JOBS,
    act,
    checkpoint,
    claim,
    create,
    events_of,
    metrics,
    queue,
    training_file,
    upload_checkpoint,
)
from tests.support.worker import run_control

pytestmark = pytest.mark.usefixtures("model")


def listed(cast: Cast, **query: Any) -> list[str]:
    answer = cast.alice.client.get(JOBS, data=query)
    assert answer.status_code == 200, answer.content
    return [job["id"] for job in answer.json()["data"]]


def test_jobs_are_listed_newest_first_page_by_page(cast: Cast) -> None:
    file_id = training_file(cast.alice)
    ids = [create(cast.alice, training_file=file_id, seed=seed)["id"] for seed in range(3)][::-1]
    first = cast.alice.client.get(JOBS, data={"limit": 2}).json()
    assert ([job["id"] for job in first["data"]], first["has_more"]) == (ids[:2], True)
    assert listed(cast, limit=2, after=first["last_id"]) == ids[2:]


def test_jobs_are_found_by_status_model_and_metadata(cast: Cast) -> None:
    plain = queue(cast.alice)
    team = queue(cast.alice, metadata={"team": "support", "empty": ""})
    paused = queue(cast.alice, metadata={"team": "sales"})
    claim()
    act(cast.alice, paused, "pause")
    ended = queue(cast.alice)
    act(cast.alice, ended, "cancel")
    assert listed(cast, status="running") == [plain["id"]]
    assert listed(cast, status="queued") == [paused["id"], team["id"]]
    assert listed(cast, status="cancelled") == [ended["id"]]
    assert listed(cast, status="succeeded") == []
    assert listed(cast, model=MODEL) == [ended["id"], paused["id"], team["id"], plain["id"]]
    assert listed(cast, model="other") == []
    assert listed(cast, **{"metadata[team]": "support"}) == [team["id"]]
    assert listed(cast, **{"metadata[empty]": ""}) == [team["id"]]
    assert listed(cast, metadata="null") == [ended["id"], plain["id"]]
    assert listed(cast, **{"metadata[team]": "\0"}) == []
    refused = cast.alice.client.get(JOBS, data={"status": "paused"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "status")


def test_a_running_job_that_is_to_pause_is_listed_as_queued(cast: Cast) -> None:
    job = queue(cast.alice)
    claim()
    act(cast.alice, job, "pause")
    assert (listed(cast, status="queued"), listed(cast, status="running")) == ([job["id"]], [])


def test_events_are_listed_newest_first_page_by_page(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    grant.report(*(metrics(step, step, step) for step in range(1, 31)))
    oldest_first = [event["id"] for event in events_of(cast.alice, job)]
    assert len(oldest_first) == 34
    path = f"{JOBS}/{job['id']}/events"
    first = cast.alice.client.get(path).json()
    second = cast.alice.client.get(path, data={"after": first["last_id"]}).json()
    ids = [event["id"] for event in first["data"] + second["data"]]
    assert (ids, first["has_more"], second["has_more"]) == (oldest_first[::-1], True, False)


def test_checkpoints_are_listed_latest_first_without_interim_ones(cast: Cast) -> None:
    job = queue(cast.alice)
    grant = claim()
    for seq, (step, interim) in enumerate([(1, False), (2, True), (3, False), (4, False)], start=1):
        upload_checkpoint(grant, step)
        grant.report(checkpoint(seq, step, interim=interim))
    run_control()
    path = f"{JOBS}/{job['id']}/checkpoints"
    first = cast.alice.client.get(path, data={"limit": 2}).json()
    assert ([found["step_number"] for found in first["data"]], first["has_more"]) == ([4, 3], True)
    second = cast.alice.client.get(path, data={"after": first["last_id"]}).json()
    assert ([found["step_number"] for found in second["data"]], second["has_more"]) == ([1], False)


def test_a_cursor_of_another_list_is_refused(cast: Cast) -> None:
    job, other = queue(cast.alice), queue(cast.alice)
    foreign = events_of(cast.alice, other)[0]["id"]
    for path in ("events", "checkpoints"):
        for cursor in (foreign, "ftevent-", job["id"], f"ftevent-{job['id'][6:]}ffffffff"):
            answer = cast.alice.client.get(f"{JOBS}/{job['id']}/{path}", data={"after": cursor})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_the_position_counts_ones_own_and_other_organisations(cast: Cast) -> None:
    first, second, third = (queue(cast.alice) for _ in range(3))
    queue(cast.charlie)
    node = claim()  # Alice's first
    node.worker.report(trains=True, training_tokens_per_second=100.0, leases=[{"id": node.id, "epoch": node.epoch}])
    jobs = {job["id"]: job for job in cast.alice.client.get(JOBS).json()["data"]}
    assert [jobs[job["id"]]["queue_position"] for job in (first, second, third)] == [None, 2, 3]
    finishes = [jobs[job["id"]]["estimated_finish"] for job in (first, second, third)]
    total = first["progress"]["total_tokens"]
    now = finishes[0] - total // 100
    assert [round((finish - now) * 100 / total) for finish in finishes] == [1, 3, 4]
