"""What the report says about an input file before any batch is made of it."""

from typing import Any

import orjson

from tests.support.cast import MODEL, Cast
from tests.support.model import BATCH
from tests.support.rows import jsonl, line, quote
from tests.support.training import report, upload


def test_every_bad_line_is_named_by_place_and_code_with_what_to_do(cast: Cast) -> None:
    content = jsonl(
        [
            line(1),
            line(1),
            line(3, method="GET"),
            line(4, body={"model": "unknown", "messages": []}),
            line(5, body={"model": MODEL, "messages": [{"role": "user", "content": 1}]}),
        ]
    )
    found = report(cast.alice, upload(cast.alice, content + b"{\n", purpose="batch"))
    assert found["rows"] == {"total": 6, "valid": 1, "invalid": 5}
    assert [(problem["line"], problem["pointer"], problem["code"]) for problem in found["problems"]["data"]] == [
        (2, "/custom_id", "duplicate_custom_id"),
        (3, "/method", "invalid_method"),
        (4, "/body/model", "model_not_found"),
        (5, "/body/messages/0/content", "invalid_type"),
        (6, "", "invalid_json_line"),
    ]
    assert all(problem["fix"] for problem in found["problems"]["data"])


def test_the_quote_is_that_of_a_batch(cast: Cast) -> None:
    content = jsonl([line(1), line(2)])
    found = report(cast.alice, upload(cast.alice, content, purpose="batch"))
    quoted: Any = quote(cast.alice, content)
    (model,) = found["quote"]["models"]
    assert (model["model"], model["requests"]) == (MODEL, 2)
    assert model["cost_nanos"] == (
        model["input_tokens"] * BATCH.input_nanos + model["output_tokens"] * BATCH.output_nanos
    )  # fmt: skip
    assert found["quote"]["max_cost_nanos"] == model["max_cost_nanos"]
    assert str(found["quote"]["cost_nanos"]) in orjson.dumps(quoted).decode()
    assert found["statistics"]["input_tokens"]["total"] == model["input_tokens"]


def test_requests_that_are_the_same_are_named(cast: Cast) -> None:
    same = line(1)["body"]
    found = report(cast.alice, upload(cast.alice, jsonl([line(1), line(2, body=same)]), purpose="batch"))
    assert found["duplicates"]["exact"] == {"rows": 1, "data": [{"line": 2, "like": 1}]}


def test_the_endpoint_is_the_files_or_the_one_that_is_asked_for(cast: Cast) -> None:
    entry = line(1, url="/v1/completions", body={"model": MODEL, "prompt": "Hi", "max_tokens": 5})
    file_id = upload(cast.alice, b"no JSON\n" + jsonl([entry]), purpose="batch")
    found = report(cast.alice, file_id)
    assert (found["endpoint"], found["completion_window"], found["rows"]["valid"]) == ("/v1/completions", "24h", 1)
    found = report(cast.alice, file_id, endpoint="/v1/chat/completions")
    assert found["problems"]["by_code"] == {"invalid_json_line": 1, "invalid_url": 1}


def test_options_that_mean_nothing_are_refused(cast: Cast) -> None:
    file_id = upload(cast.alice, jsonl([line(1)]), purpose="batch")
    for query, code in (("endpoint=/v1/x", "invalid_value"), ("model=little", "unknown_parameter")):
        answer = cast.alice.client.get(f"/v1/files/{file_id}/report?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_file_that_is_no_batch_as_a_whole_says_why(cast: Cast) -> None:
    found = report(cast.alice, upload(cast.alice, b"[{}]", purpose="batch"))
    (problem,) = found["problems"]["data"]
    assert (problem["line"], problem["code"], found["rows"]["total"]) == (None, "invalid_jsonl", 0)
    assert problem["fix"]
