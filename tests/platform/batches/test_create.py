"""``POST /v1/batches``: what may be asked for."""

from typing import Any

from tests.support.cast import Cast
from tests.support.facts import change, count
from tests.support.rows import create, jsonl, line, retrieve, submit

PAIRS = {f"key-{number}": "x" for number in range(16)}


def test_a_new_batch_has_every_member_of_the_object(cast: Cast) -> None:
    file = cast.alice.client.upload(jsonl([line(1)])).json()
    batch = create(cast.alice, file["id"], metadata={"team": "support"}).json()
    assert batch["id"].startswith("batch_")
    assert batch["expires_at"] - batch["created_at"] == 24 * 3_600
    del batch["id"], batch["created_at"], batch["expires_at"]
    assert batch == {
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": file["id"],
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "in_progress_at": None,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": {"team": "support"},
        "on_invalid": "fail",
        "retry_of": None,
        "cost_nanos": 0,
        "max_cost": None,
        "paused": False,
        "waiting_reason": None,
        "queue_position": None,
        "estimated_finish_at": None,
        "held_reason": None,
    }


def test_metadata_is_null_unless_there_is_some(cast: Cast) -> None:
    cases: list[tuple[Any, Any]] = [
        ({}, None), ({"metadata": None}, None), ({"metadata": {}}, None), ({"metadata": PAIRS}, PAIRS)
    ]  # fmt: skip
    for sent, shown in cases:
        batch = submit(cast.alice, jsonl([line(1)]), **sent)
        assert batch["metadata"] == shown
        assert retrieve(cast.alice, batch)["metadata"] == shown


BAD_FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"priority": 1}, "unknown_parameter", "priority"),
    "window": ({"completion_window": "1w"}, "invalid_value", "completion_window"),
    "window_null": ({"completion_window": None}, "invalid_type", "completion_window"),
    "endpoint": ({"endpoint": "/v1/images"}, "invalid_value", "endpoint"),
    "endpoint_list": ({"endpoint": []}, "invalid_value", "endpoint"),
    "on_invalid": ({"on_invalid": "ignore"}, "invalid_value", "on_invalid"),
    "metadata_text": ({"metadata": "x"}, "invalid_type", "metadata"),
    "metadata_17_pairs": ({"metadata": {**PAIRS, "one": "x"}}, "invalid_value", "metadata"),
    "metadata_long_key": ({"metadata": {"x" * 65: "x"}}, "invalid_value", "metadata"),
    "metadata_empty_key": ({"metadata": {"": "x"}}, "invalid_value", "metadata"),
    "metadata_nul_key": ({"metadata": {"a\0": "x"}}, "invalid_value", "metadata"),
    "metadata_long_value": ({"metadata": {"a": "x" * 513}}, "invalid_value", "metadata.a"),
    "metadata_nul_value": ({"metadata": {"a": "\0"}}, "invalid_value", "metadata.a"),
    "metadata_number": ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
    "metadata_nested": ({"metadata": {"a": {}}}, "invalid_value", "metadata.a"),
    "expiry_anchor": (
        {"output_expires_after": {"anchor": "now", "seconds": 3_600}}, "invalid_value", "output_expires_after.anchor",
    ),
    "expiry_too_soon": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 3_599}},
        "invalid_value", "output_expires_after.seconds",
    ),
    "expiry_too_late": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
        "invalid_value", "output_expires_after.seconds",
    ),
    "expiry_without_seconds": (
        {"output_expires_after": {"anchor": "created_at"}},
        "missing_required_parameter", "output_expires_after.seconds",
    ),
    "expiry_unknown": (
        {"output_expires_after": {"anchor": "created_at", "seconds": 3_600, "days": 1}},
        "unknown_parameter", "output_expires_after.days",
    ),
}  # fmt: skip


def test_a_bad_field_is_named_and_nothing_is_made(cast: Cast) -> None:
    file = cast.alice.client.upload(jsonl([line(1)])).json()
    for name, (fields, code, param) in BAD_FIELDS.items():
        answer = create(cast.alice, file["id"], **fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), name
        assert error["message"]
    assert (count("batches_batch"), count("fleet_lease"), count("files_fileuse")) == (0, 0, 0)


def test_a_missing_field_is_named(cast: Cast) -> None:
    for missing in ("input_file_id", "endpoint", "completion_window"):
        fields = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        del fields[missing]
        answer = cast.alice.client.post("/v1/batches", fields)
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "message": f"Missing required parameter: '{missing}'.",
            "type": "invalid_request_error",
            "param": missing,
            "code": "missing_required_parameter",
        }


def test_an_input_file_that_is_not_there_is_not_found(cast: Cast) -> None:
    theirs = cast.charlie.client.upload(jsonl([line(1)])).json()["id"]
    deleted = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    cast.alice.client.delete(f"/v1/files/{deleted}")
    expired = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    change("UPDATE files_storedfile SET expires_at = now() WHERE id = %s", expired.removeprefix("file-"))
    for file_id in (theirs, deleted, expired, f"file-{'0' * 32}", "file-1", "batch_1", ""):
        answer = create(cast.alice, file_id)
        error = answer.json()["error"]
        assert error["param"] == "input_file_id"
        assert (answer.status_code, error["code"]) == ((404, "not_found") if file_id else (400, "invalid_value"))
    assert (count("batches_batch"), count("fleet_lease")) == (0, 0)


def test_the_input_file_of_a_running_batch_can_be_used_again_but_not_deleted(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    answer = cast.alice.client.delete(f"/v1/files/{batch['input_file_id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "file_in_use")
    assert answer.headers["x-should-retry"] == "false"
    assert create(cast.alice, batch["input_file_id"]).status_code == 200


def test_an_input_file_does_not_expire_under_a_running_batch(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    change("UPDATE files_storedfile SET expires_at = now()")
    assert cast.alice.client.get(f"/v1/files/{batch['input_file_id']}").status_code == 200


def test_batches_are_listed_newest_first_over_pages(cast: Cast) -> None:
    ids = [submit(cast.alice, jsonl([line(1)]))["id"] for _ in range(5)][::-1]
    first = cast.alice.client.get("/v1/batches?limit=3").json()
    assert [batch["id"] for batch in first["data"]] == ids[:3]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[0], ids[2])
    second = cast.alice.client.get(f"/v1/batches?limit=3&after={ids[2]}").json()
    assert [batch["id"] for batch in second["data"]] == ids[3:]
    assert second["has_more"] is False
    assert cast.charlie.client.get("/v1/batches").json()["data"] == []


def test_a_stranger_sees_and_cancels_nothing(cast: Cast) -> None:
    batch = submit(cast.alice, jsonl([line(1)]))
    missing = f"batch_{'0' * 32}"
    for method, path in (("GET", ""), ("POST", "/cancel")):
        stranger = cast.charlie.client.call(method, f"/v1/batches/{batch['id']}{path}")
        nobody = cast.charlie.client.call(method, f"/v1/batches/{missing}{path}")
        assert (stranger.status_code, nobody.status_code) == (404, 404)
        assert stranger.json()["error"]["message"].replace(batch["id"], missing) == nobody.json()["error"]["message"]
    assert retrieve(cast.alice, batch)["status"] == "validating"
