"""Bad lines among good ones: every one is named, and ``on_invalid`` decides what becomes of the others."""

from typing import Any

import orjson

from tenants.services import create_api_key
from tests.support.cast import Cast, Member
from tests.support.facts import accounts, accounts_agree, count, leases
from tests.support.model import add_model
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, run_control

BAD_KINDS: list[tuple[str, str | None, Any]] = [
    ("invalid_json_line", None, lambda number: b'{"custom_id": '),
    ("duplicate_custom_id", "custom_id", lambda number: orjson.dumps(line(1))),
    ("invalid_method", "method", lambda number: orjson.dumps(line(number, method="DELETE"))),
    ("invalid_url", "url", lambda number: orjson.dumps(line(number, url="/v1/models"))),
    ("model_not_found", "body.model", lambda number: orjson.dumps(line(number, body={"model": "nothing"}))),
    ("stream_not_allowed", "body.stream", lambda number: _with_body(number, stream=True)),
    ("unknown_parameter", "body.nonsense", lambda number: _with_body(number, nonsense=1)),
    ("context_length_exceeded", "body", lambda number: _with_body(number, max_tokens=5_000)),
    ("invalid_line", None, lambda number: b"[]"),
    ("invalid_line", "custom_id", lambda number: b"{}"),
]


def _with_body(number: int, **members: Any) -> bytes:
    return orjson.dumps(line(number, body={**line(number)["body"], **members}))


def mixed_file(rows: int, bad: int) -> tuple[bytes, dict[int, tuple[str, str | None]]]:
    """A file in which the last of every few lines is bad, all kinds in turn; and the bad lines' code and member."""
    every = rows // bad
    texts, expected = [], {}
    for number in range(1, rows + 1):
        if number % every:
            texts.append(orjson.dumps(line(number)))
        else:
            code, param, make = BAD_KINDS[number // every % len(BAD_KINDS)]
            texts.append(make(number))
            expected[number] = (code, param)
    return b"\n".join(texts), expected


def test_a_thousand_bad_lines_are_each_named_and_nothing_runs(cast: Cast) -> None:
    content, expected = mixed_file(3_000, 1_000)
    batch = submit(cast.alice, content)
    run_control()
    failed = retrieve(cast.alice, batch)
    assert failed["status"] == "failed"
    assert {error["line"]: (error["code"], error["param"]) for error in failed["errors"]["data"]} == expected
    assert all(error["message"] for error in failed["errors"]["data"])
    rows = read_file(cast.alice, failed["error_file_id"])
    assert [row["line"] for row in rows] == sorted(expected)
    assert [row["error"]["code"] for row in rows] == [expected[row["line"]][0] for row in rows]
    assert failed["output_file_id"] is None
    assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert [count(f"batches_{table}") for table in ("row", "shard", "segment")] == [0, 0, 0]
    assert (count("metering_usageevent"), len(leases())) == (0, 0)
    assert Worker().request_lease().status_code == 204
    assert cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_skipped_lines_count_as_failed_and_their_neighbours_run(cast: Cast) -> None:
    content, expected = mixed_file(60, 20)
    batch = submit(cast.alice, content, on_invalid="skip")
    run_control()
    validated = retrieve(cast.alice, batch)
    assert validated["status"] == "in_progress"
    assert {error["line"]: (error["code"], error["param"]) for error in validated["errors"]["data"]} == expected
    assert Worker().answer_all() == 40
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 60, "completed": 40, "failed": 20}
    assert done["errors"] == validated["errors"]
    rows = read_file(cast.alice, done["error_file_id"])
    assert [row["line"] for row in rows] == sorted(expected)
    has_id = {"invalid_json_line": False, "invalid_line": False}
    assert [row["custom_id"] is not None for row in rows] == [
        has_id.get(expected[row["line"]][0], True) for row in rows
    ]
    assert {row["response"] for row in rows} == {None}
    assert len(read_file(cast.alice, done["output_file_id"])) == 40
    assert accounts_agree(batch), accounts(batch)


def test_a_batch_of_skipped_lines_alone_completes_with_an_error_file_and_no_output(cast: Cast) -> None:
    batch = submit(cast.alice, b"one\ntwo\n", on_invalid="skip")
    run_control()
    done = retrieve(cast.alice, batch)
    assert done["status"] == "completed"
    assert done["output_file_id"] is None
    assert done["request_counts"] == {"total": 2, "completed": 0, "failed": 2}
    assert [row["line"] for row in read_file(cast.alice, done["error_file_id"])] == [1, 2]
    assert len(leases()) == 0


def test_the_first_line_with_a_custom_id_keeps_it_even_when_it_is_bad(cast: Cast) -> None:
    content = jsonl([line(1, custom_id="same", method="GET"), line(2, custom_id="same"), line(3, custom_id="other")])
    batch = submit(cast.alice, content, on_invalid="skip")
    run_control()
    errors = retrieve(cast.alice, batch)["errors"]["data"]
    assert [(error["line"], error["code"]) for error in errors] == [(1, "invalid_method"), (2, "duplicate_custom_id")]


def test_the_same_custom_id_in_another_batch_is_no_duplicate(cast: Cast) -> None:
    batches = [submit(cast.alice, jsonl([line(1)])) for _ in range(2)]
    run_control()
    assert [retrieve(cast.alice, batch)["status"] for batch in batches] == ["in_progress", "in_progress"]


def test_a_key_reaches_only_its_models(cast: Cast, tmp_path: Any) -> None:
    add_model(tmp_path / "other", name="other")
    narrow = create_api_key(project=cast.alice.project, name="narrow", actor="test", allowed_models=["other"])
    member = Member(cast.alice.organization, cast.alice.project, narrow.token, cast.alice.admin_token)
    lines = [line(1), line(2, body={**line(2)["body"], "model": "other"})]
    batch = submit(member, jsonl(lines), on_invalid="skip")
    run_control()
    validated = retrieve(member, batch)
    assert validated["errors"]["data"] == [
        {
            "code": "model_not_found",
            "message": "The model 'little' does not exist or this key may not use it",
            "param": "body.model",
            "line": 1,
        }
    ]
    assert validated["model"] == "other"


def test_more_bad_lines_than_the_object_lists_are_all_in_the_error_file(cast: Cast) -> None:
    batch = submit(cast.alice, b"bad\n" * 2_100)
    run_control()
    failed = retrieve(cast.alice, batch)
    assert [error["line"] for error in failed["errors"]["data"]] == list(range(1, 2_001))
    assert [row["line"] for row in read_file(cast.alice, failed["error_file_id"])] == list(range(1, 2_101))
