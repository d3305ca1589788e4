"""A batch from its creation to its files."""

from tests.support.cast import Cast
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, run_control


def test_a_batch_runs_to_its_end_in_input_order(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, 41)]), metadata={"team": "a"})
    assert batch["status"] == "validating"
    run_control()
    assert retrieve(cast.alice, batch)["status"] == "in_progress"
    assert Worker().answer_all() == 40
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "completed", done
    assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert done["usage"]["input_tokens"] == 400
    assert done["usage"]["output_tokens"] == 200
    assert done["cost_nanos"] == 400 * 50 + 200 * 100
    output = read_file(cast.alice, done["output_file_id"])
    assert [entry["custom_id"] for entry in output] == [f"row-{number}" for number in range(1, 41)]
    assert done["error_file_id"] is None
