"""What did not succeed runs again, once, as a batch of its own that is linked to the first."""

from typing import Any

import pytest

from tests.support.cast import Cast
from tests.support.facts import accounts_agree, count
from tests.support.money import add_credit, set_balance
from tests.support.rows import cancel, jsonl, line, read_file, retrieve, submit
from tests.support.threads import at_once
from tests.support.worker import Worker, failure, refusal, result, run_control


def partly_done(cast: Cast) -> Any:
    """Of five lines the second has an answer, the others were refused, timed out, cancelled; the last is malformed."""
    content = jsonl([line(number) for number in range(1, 5)]) + b"bad\n"
    batch = submit(cast.alice, content, on_invalid="skip", metadata={"a": "b"})
    run_control()
    grant = Worker().lease()
    grant.put(0, [refusal(1), result(2), failure(3)])
    cancel(cast.alice, batch)
    grant.fail("cancelled")
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "cancelled"
    return batch


def ask(cast: Cast, batch: Any, **fields: Any) -> Any:
    return cast.alice.client.post(f"/v1/batches/{batch['id']}/retry", fields)


def test_rows_without_a_success_run_again_in_a_linked_batch(cast: Cast) -> None:
    batch = partly_done(cast)
    answer = ask(cast, batch)
    assert answer.status_code == 200, answer.content
    retry = answer.json()
    assert retry["id"] != batch["id"]
    assert (retry["retry_of"], retry["status"], retry["metadata"]) == (batch["id"], "validating", {"a": "b"})
    run_control()
    assert retrieve(cast.alice, retry)["request_counts"] == {"total": 3, "completed": 0, "failed": 0}
    assert Worker("node-2").answer_all() == 3
    run_control()
    done = retrieve(cast.alice, retry)
    assert (done["status"], done["request_counts"]["completed"]) == ("completed", 3)
    lines = read_file(cast.alice, done["output_file_id"])
    assert [entry["custom_id"] for entry in lines] == ["row-1", "row-3", "row-4"]
    assert accounts_agree(batch)
    assert accounts_agree(retry)


def test_a_batch_is_retried_once_however_often_and_how_many_ask(cast: Cast) -> None:
    batch = partly_done(cast)
    answers = [*at_once(*([lambda: ask(cast, batch)] * 5)), ask(cast, batch)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count("batches_batch") == 2


def test_a_retry_that_failed_as_a_whole_is_followed_by_another(cast: Cast) -> None:
    batch = partly_done(cast)
    first = ask(cast, batch).json()
    set_balance(cast.alice, 0)
    run_control()
    assert retrieve(cast.alice, first)["status"] == "failed"
    add_credit(cast.alice, 10**9)
    second = ask(cast, batch).json()
    assert second["id"] != first["id"]
    run_control()
    assert retrieve(cast.alice, second)["status"] == "in_progress"


def test_rows_that_fail_again_are_retried_from_the_retry(cast: Cast) -> None:
    retry = ask(cast, partly_done(cast)).json()
    run_control()
    grant = Worker("node-2").lease()
    grant.put(0, [failure(1), result(3), failure(4)])
    run_control()
    assert retrieve(cast.alice, retry)["status"] == "completed"
    again = ask(cast, retry).json()
    assert again["retry_of"] == retry["id"]
    run_control()
    assert retrieve(cast.alice, again)["request_counts"]["total"] == 2


def test_a_batch_that_runs_is_not_retried(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    run_control()
    answer = ask(cast, batch)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert count("batches_batch") == 1


@pytest.mark.parametrize("content", [jsonl([line(1)]), b"bad\n"])
def test_without_anything_to_run_again_there_is_no_retry(cast: Cast, content: bytes) -> None:
    batch = submit(cast.alice, content)
    run_control()
    Worker().answer_all()
    run_control()
    answer = ask(cast, batch)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert count("batches_batch") == 1


def test_without_its_input_a_batch_cannot_be_retried(cast: Cast) -> None:
    batch = partly_done(cast)
    cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}")
    answer = ask(cast, batch)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input_file_id")
    assert count("batches_batch") == 1
