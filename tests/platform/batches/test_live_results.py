"""Rows can be read while the batch runs, and read the same when it has ended."""

from typing import Any

import pytest

from common.ids import uuid7
from tests.support.cast import Cast
from tests.support.facts import let_back_off_pass
from tests.support.rows import cancel, jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, refusal, result, run_control


def results(cast: Cast, batch: Any, **query: Any) -> Any:
    answer = cast.alice.client.get(f"/v1/batches/{batch['id']}/results", data=query)
    assert answer.status_code == 200, answer.content
    return answer.json()


def half_done(cast: Cast) -> tuple[Any, Any]:
    content = jsonl([line(1), line(2)]) + b"bad\n" + jsonl([line(4), line(5)])
    batch = submit(cast.alice, content, on_invalid="skip")
    run_control()
    grant = Worker().lease()
    grant.put(0, [result(4), refusal(1)])
    return batch, grant


def test_every_row_is_told_while_the_batch_runs(cast: Cast) -> None:
    batch, _ = half_done(cast)
    found = results(cast, batch)
    assert found["object"] == "list"
    assert found["has_more"] is False
    assert [(row["line"], row["custom_id"], row["status"], row["attempts"]) for row in found["data"]] == [
        (1, "row-1", "failed", 1),
        (2, "row-2", "in_progress", 1),
        (3, None, "failed", 0),
        (4, "row-4", "completed", 1),
        (5, "row-5", "in_progress", 1),
    ]
    refused, waiting, invalid, answered, _ = found["data"]
    assert refused["response"]["status_code"] == 400
    assert (waiting["response"], waiting["error"]) == (None, None)
    assert invalid["error"]["code"] == "invalid_json_line"
    assert answered["response"]["body"]["choices"][0]["message"]["content"] == "answer 4"
    assert answered["usage"]["total_tokens"] == 15
    assert answered["cost_nanos"] == 1_000
    assert answered["object"] == "batch.result"


def test_rows_are_the_same_in_the_files_and_in_the_list_afterwards(cast: Cast) -> None:
    batch, grant = half_done(cast)
    before = results(cast, batch)["data"]
    cancel(cast.alice, batch)
    grant.put(1, [result(2)])
    grant.fail("cancelled")
    run_control()
    done = retrieve(cast.alice, batch)
    after = results(cast, batch)["data"]
    assert [after[0], after[2], after[3]] == [before[0], before[2], before[3]]
    assert [row["status"] for row in after] == ["failed", "completed", "failed", "completed", "cancelled"]
    assert after[4]["error"]["code"] == "batch_cancelled"
    files = read_file(cast.alice, done["output_file_id"]) + read_file(cast.alice, done["error_file_id"])
    by_id = {row["id"]: row for row in files}
    assert by_id.keys() == {row["id"] for row in after}
    for row in after:
        assert (row["response"], row["custom_id"]) == (by_id[row["id"]]["response"], by_id[row["id"]]["custom_id"])


def test_results_whose_file_was_deleted_are_gone_and_their_numbers_stay(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    Worker().answer_all()
    run_control()
    cast.alice.client.delete(f"/v1/files/{retrieve(cast.alice, batch)['output_file_id']}")
    (row,) = results(cast, batch)["data"]
    assert (row["status"], row["response"], row["cost_nanos"]) == ("completed", None, 1_000)


def test_pages_follow_one_another_without_gaps(cast: Cast) -> None:
    batch, _ = half_done(cast)
    seen: list[int] = []
    page = results(cast, batch, limit=2)
    while True:
        seen += [row["line"] for row in page["data"]]
        assert page["last_id"] == page["data"][-1]["id"]
        if not page["has_more"]:
            break
        page = results(cast, batch, limit=2, after=page["last_id"])
    assert seen == [1, 2, 3, 4, 5]


def test_only_rows_of_a_state_can_be_asked_for(cast: Cast) -> None:
    batch, _ = half_done(cast)
    assert [row["line"] for row in results(cast, batch, status="failed")["data"]] == [1, 3]
    assert [row["line"] for row in results(cast, batch, status="pending")["data"]] == [2, 5]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"after": "batch_req_x"}, "after"),
        ({"after": f"batch_req_{uuid7().hex}00000001"}, "after"),
        ({"status": "done"}, "status"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(cast: Cast, query: dict[str, str], param: str) -> None:
    batch, _ = half_done(cast)
    answer = cast.alice.client.get(f"/v1/batches/{batch['id']}/results", data=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_row_that_was_handed_out_twice_says_so(cast: Cast) -> None:
    batch, grant = half_done(cast)
    grant.fail("broken")
    let_back_off_pass()
    Worker("node-2").lease().put(1, [result(2)])
    assert [row["attempts"] for row in results(cast, batch)["data"]] == [1, 2, 0, 1, 2]
