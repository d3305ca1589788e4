"""A batch that waits says what for; the list finds batches by state, model and metadata; requests may come inline."""

from typing import Any

import pytest

from tests.support.cast import Cast, Member
from tests.support.facts import change, count
from tests.support.rows import create, jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, result, run_control


def waiting(member: Member, content: bytes) -> Any:
    batch = submit(member, content)
    run_control()
    return batch


def reported_ready() -> Worker:
    worker = Worker()
    answer = worker.report()
    assert answer.status_code == 200, answer.content
    return worker


def told(member: Member, batch: Any) -> tuple[Any, Any]:
    found = retrieve(member, batch)
    return found["waiting_reason"], found["queue_position"]


def test_without_a_node_for_its_model_a_batch_says_so(cast: Cast) -> None:
    batch = waiting(cast.alice, jsonl([line(1)]))
    assert told(cast.alice, batch) == ("no_node", None)
    reported_ready()
    assert told(cast.alice, batch) == ("queued", 1)
    change("UPDATE fleet_node SET last_seen_at = now() - interval '1 minute'")
    assert told(cast.alice, batch) == ("no_node", None)


def test_the_place_in_the_queue_counts_ones_own_batches_and_other_organisations(cast: Cast) -> None:
    reported_ready()
    first, second = (waiting(cast.alice, jsonl([line(1)])) for _ in range(2))
    theirs = [waiting(cast.charlie, jsonl([line(1)])) for _ in range(3)]
    assert [told(cast.alice, batch)[1] for batch in (first, second)] == [2, 3]
    assert [told(cast.charlie, batch)[1] for batch in theirs] == [2, 3, 4]


def test_a_batch_that_runs_waits_for_nothing_and_tells_when_it_will_be_done(cast: Cast) -> None:
    worker = reported_ready()
    batch = waiting(cast.alice, jsonl([line(number) for number in range(1, 4)]))
    grant = worker.lease()
    assert told(cast.alice, batch) == (None, None)
    assert retrieve(cast.alice, batch)["estimated_finish_at"] is None
    grant.put(0, [result(1)])
    change("UPDATE batches_batch SET in_progress_at = now() - interval '30 seconds'")
    found = retrieve(cast.alice, batch)
    assert 55 <= found["estimated_finish_at"] - found["in_progress_at"] - 30 <= 66


def test_a_batch_that_backs_off_says_so(cast: Cast) -> None:
    worker = reported_ready()
    batch = waiting(cast.alice, jsonl([line(1)]))
    worker.lease().fail("broken")
    assert told(cast.alice, batch) == ("retrying", None)


def test_the_list_is_filtered(cast: Cast) -> None:
    failed = submit(cast.alice, b"bad\n", metadata={"team": "a"})
    run_control()
    tagged = submit(cast.alice, jsonl([line(1)]), metadata={"team": "a", "x": "1"})
    plain = waiting(cast.alice, jsonl([line(1)]))

    def listed(**query: str) -> list[str]:
        return [entry["id"] for entry in cast.alice.client.get("/v1/batches", data=query).json()["data"]]

    assert listed(status="failed") == [failed["id"]]
    assert listed(status="in_progress") == [plain["id"], tagged["id"]]
    assert listed(model="little") == [plain["id"], tagged["id"]]
    assert listed(model="other") == []
    assert listed(**{"metadata[team]": "a"}) == [tagged["id"], failed["id"]]
    assert listed(**{"metadata[team]": "a", "metadata[x]": "1", "status": "in_progress"}) == [tagged["id"]]
    assert listed(**{"metadata[team]": "b"}) == listed(**{"metadata[a\0]": "b"}) == []
    answer = cast.alice.client.get("/v1/batches", data={"status": "done"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "status")


def test_requests_may_come_with_the_call(cast: Cast) -> None:
    body = line(1)["body"]
    answer = cast.alice.client.post(
        "/v1/batches",
        {
            "requests": [{"body": body}, {"custom_id": "mine", "body": body}],
            "endpoint": "/v1/chat/completions",
            "completion_window": "1h",
        },
    )
    assert answer.status_code == 200, answer.content
    batch = answer.json()
    entries = read_file(cast.alice, batch["input_file_id"])
    assert [(entry["custom_id"], entry["url"]) for entry in entries] == [
        ("request-1", "/v1/chat/completions"),
        ("mine", "/v1/chat/completions"),
    ]
    run_control()
    assert Worker().answer_all() == 2
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"requests": []}, "requests"),
        ({"requests": ["x"]}, "requests.0"),
        ({"requests": [{}], "input_file_id": "file-1"}, "requests"),
        ({}, "input_file_id"),
    ],
)
def test_the_input_comes_in_exactly_one_way(cast: Cast, fields: dict[str, Any], param: str) -> None:
    answer = cast.alice.client.post(
        "/v1/batches", {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert (count("batches_batch"), count("files_storedfile")) == (0, 0)


def test_a_missing_input_is_named_as_missing(cast: Cast) -> None:
    answer = cast.alice.client.post("/v1/batches", {"endpoint": "/v1/chat/completions", "completion_window": "24h"})
    assert answer.json()["error"]["code"] == "missing_required_parameter"


def test_a_window_of_an_hour_closes_after_an_hour(cast: Cast) -> None:
    file_id = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    for window, seconds in (("1h", 3_600), ("24h", 86_400), ("7d", 604_800)):
        batch = create(cast.alice, file_id, completion_window=window).json()
        assert batch["expires_at"] - batch["created_at"] == seconds
