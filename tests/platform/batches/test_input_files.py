"""Files that are no batch as a whole, and oddities that are none."""

import re

import orjson
import pytest
from pytest_django import Settings

from tests.support.cast import Cast
from tests.support.facts import count, leases
from tests.support.rows import create, jsonl, line, read_file, retrieve, submit
from tests.support.worker import Worker, run_control

TWO = [line(1), line(2)]
TEXT = jsonl(TWO)

BAD_FILES = {
    "blank_lines": (b"\n \n\r\n\t\n", "empty_file", "The file holds no request"),
    "only_a_byte_order_mark": (b"\xef\xbb\xbf\n", "empty_file", "The file holds no request"),
    "utf_16": (
        TEXT.decode().encode("utf-16"),
        "invalid_encoding", "The file is not UTF-8 (it looks like UTF-16 or UTF-32); save it as UTF-8",
    ),
    "utf_16_without_mark": (
        TEXT.decode().encode("utf-16-le"),
        "invalid_encoding", "The file is not UTF-8 (it looks like UTF-16 or UTF-32); save it as UTF-8",
    ),
    "utf_32": (
        TEXT.decode().encode("utf-32"),
        "invalid_encoding", "The file is not UTF-8 (it looks like UTF-16 or UTF-32); save it as UTF-8",
    ),
    "json_array": (
        orjson.dumps(TWO),
        "invalid_jsonl", "The file is a JSON array; write one object per line instead (JSON Lines)",
    ),
    "pretty_printed_array": (
        orjson.dumps(TWO, option=orjson.OPT_INDENT_2),
        "invalid_jsonl", "The file is a JSON array; write one object per line instead (JSON Lines)",
    ),
    "array_after_mark_and_blank_lines": (
        b"\xef\xbb\xbf\n\n  [\n]",
        "invalid_jsonl", "The file is a JSON array; write one object per line instead (JSON Lines)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("on_invalid", ["fail", "skip"])
def test_a_file_that_is_no_batch_fails_with_the_reason(cast: Cast, on_invalid: str) -> None:
    batches = {name: submit(cast.alice, content, on_invalid=on_invalid) for name, (content, _, _) in BAD_FILES.items()}
    run_control()
    for name, (_, code, message) in BAD_FILES.items():
        failed = retrieve(cast.alice, batches[name])
        assert failed["status"] == "failed", name
        assert failed["errors"]["data"] == [{"code": code, "message": message, "line": None, "param": None}], name
        assert failed["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert (failed["output_file_id"], failed["error_file_id"]) == (None, None)
        assert failed["failed_at"] is not None
        assert cast.alice.client.delete(f"/v1/files/{failed['input_file_id']}").status_code == 200
    assert (count("batches_row"), count("batches_shard"), len(leases())) == (0, 0, 0)


GOOD_FILES = {
    "byte_order_mark": b"\xef\xbb\xbf" + TEXT,
    "crlf": TEXT.replace(b"\n", b"\r\n"),
    "no_newline_at_the_end": TEXT.rstrip(b"\n"),
    "indented": b"".join(b"  " + text + b"  \n" for text in TEXT.splitlines()),
    "two_files_in_one": b"".join(b"\xef\xbb\xbf" + text + b"\n" for text in TEXT.splitlines()),
}


def test_a_file_with_a_harmless_oddity_runs(cast: Cast) -> None:
    batches = {name: submit(cast.alice, content) for name, content in GOOD_FILES.items()}
    run_control()
    assert Worker().answer_all() == 2 * len(GOOD_FILES)
    run_control()
    for name, batch in batches.items():
        done = retrieve(cast.alice, batch)
        assert (done["status"], done["request_counts"]) == ("completed", {"total": 2, "completed": 2, "failed": 0}), (
            name
        )
        assert [row["custom_id"] for row in read_file(cast.alice, done["output_file_id"])] == ["row-1", "row-2"], name


def test_blank_lines_count_for_line_numbers_and_for_nothing_else(cast: Cast) -> None:
    batch = submit(cast.alice, b"\n\n" + jsonl([line(1)]) + b"\n \nnonsense\n\n", on_invalid="skip")
    run_control()
    validated = retrieve(cast.alice, batch)
    assert validated["request_counts"] == {"total": 2, "completed": 0, "failed": 1}
    assert [error["line"] for error in validated["errors"]["data"]] == [6]
    assert [row["line"] for row in Worker().lease().rows()] == [3]


def test_a_pretty_printed_object_is_named_line_by_line(cast: Cast) -> None:
    content = orjson.dumps(line(1), option=orjson.OPT_INDENT_2)
    batch = submit(cast.alice, content)
    run_control()
    errors = retrieve(cast.alice, batch)["errors"]["data"]
    assert [error["line"] for error in errors] == list(range(1, len(content.splitlines()) + 1))
    assert {error["code"] for error in errors} == {"invalid_json_line"}


def test_one_row_too_many_fails_the_batch_whatever_it_does_with_bad_lines(cast: Cast, settings: Settings) -> None:
    settings.BATCH_INPUT_MAX_ROWS = 3
    fits = submit(cast.alice, jsonl([line(number) for number in range(1, 4)]))
    too_many = submit(cast.alice, jsonl([line(number) for number in range(1, 5)]), on_invalid="skip")
    run_control()
    assert retrieve(cast.alice, fits)["status"] == "in_progress"
    failed = retrieve(cast.alice, too_many)
    assert failed["status"] == "failed"
    assert [(error["code"], error["message"]) for error in failed["errors"]["data"]] == [
        ("too_many_rows", "A batch takes at most 3 requests; split the file")
    ]
    assert count("batches_row") == 3


def test_a_line_may_have_its_most_bytes_and_not_one_more(cast: Cast, settings: Settings) -> None:
    good = orjson.dumps(line(1))
    settings.BATCH_LINE_MAX_BYTES = len(good)
    batch = submit(cast.alice, good + b"\n " + orjson.dumps(line(2)) + b"\n" + orjson.dumps(line(3)), on_invalid="skip")
    run_control()
    validated = retrieve(cast.alice, batch)
    assert [(error["line"], error["code"]) for error in validated["errors"]["data"]] == [(2, "line_too_large")]
    assert re.fullmatch(
        rf"The line has \d+ bytes; at most {len(good)} are allowed", validated["errors"]["data"][0]["message"]
    )
    assert [row["line"] for row in Worker().lease().rows()] == [1, 3]


def test_a_request_behind_more_blanks_than_a_line_may_have_is_named_not_lost(cast: Cast, settings: Settings) -> None:
    settings.BATCH_LINE_MAX_BYTES = 1_000
    batch = submit(cast.alice, b" " * 5_000 + orjson.dumps(line(1)) + b"\n" + orjson.dumps(line(2)), on_invalid="skip")
    run_control()
    validated = retrieve(cast.alice, batch)
    assert [(error["line"], error["code"]) for error in validated["errors"]["data"]] == [(1, "line_too_large")]
    assert validated["request_counts"]["total"] == 2


def test_a_file_of_another_purpose_is_refused(cast: Cast) -> None:
    file = cast.alice.client.upload(TEXT, purpose="user_data").json()
    answer = create(cast.alice, file["id"])
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "The file has the purpose 'user_data'; upload it with the purpose 'batch'",
        "type": "invalid_request_error",
        "param": "input_file_id",
        "code": "invalid_purpose",
    }
    assert count("batches_batch") == 0
