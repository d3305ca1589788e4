"""Segments: each row's result counts once, or nothing happens at all."""

import errno
from io import BytesIO
from typing import Any

import orjson
import pytest
from django.test import Client
from pytest_django import Settings

from catalog.services import TokenPrice
from common.storage import IncomingBlob, storage_errors
from inference_workers.protocol import LEASE_HEADER, MAX_SEGMENT_BYTES, MAX_SEGMENT_ROWS
from tests.services import storage_root
from tests.support.cast import MODEL, Cast
from tests.support.facts import accounts, accounts_agree, change, count, leases, query_owner
from tests.support.model import add_model
from tests.support.rows import jsonl, line, read_file, retrieve, submit
from tests.support.worker import Grant, Worker, failure, refusal, result, run_control


def started(cast: Cast, *, rows: int = 6, node: str = "node-1") -> tuple[Any, Grant]:
    """A validated batch whose shard a worker holds."""
    batch = submit(cast.alice, jsonl([line(number) for number in range(1, rows + 1)]))
    run_control()
    return batch, Worker(name=node).lease()


def everything() -> Any:
    """What a refused segment must leave as it is: rows, counters, events, the lease and the blobs."""
    tables = ("batches_batch", "batches_row", "batches_segment", "batches_shard", "metering_usageevent", "fleet_lease")
    blobs = sorted(path.name for path in storage_root().rglob("*") if path.is_file())
    return [query_owner(f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1") for table in tables], blobs


def assert_refused(answer: Any, status: int, code: str, before: Any) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.content
    assert everything() == before


def test_a_segment_counts_its_rows_tokens_and_cost(cast: Cast) -> None:
    batch, grant = started(cast)
    rows = [
        result(1, prompt_tokens=100, cached=60, completion_tokens=7),
        result(2, prompt_tokens=11, completion_tokens=3),
        refusal(3),
        failure(4),
    ]
    assert grant.put(0, rows).status_code == 201
    shown = retrieve(cast.alice, batch)
    assert shown["request_counts"] == {"total": 6, "completed": 2, "failed": 2}
    assert shown["usage"] == {
        "input_tokens": 111,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 121,
    }
    assert shown["cost_nanos"] == 51 * 50 + 60 * 25 + 10 * 100
    assert accounts(batch) == {
        "counters": [6, 2, 2, 2, 0, 0, 111, 60, 10, 5_050],
        "rows": [6, 2, 2, 2, 0, 0, 111, 60, 10, 5_050],
        "events": [2, 111, 60, 10, 5_050],
    }
    assert count("metering_usageevent") == 1


def test_a_usage_event_keeps_what_is_needed_to_check_the_bill(cast: Cast) -> None:
    batch, grant = started(cast)
    grant.put(0, [result(1), result(2)])
    ((event,),) = query_owner(
        "SELECT to_jsonb(e) - 'id' - 'occurred_at' - 'price_id' - 'source' FROM metering_usageevent e"
    )
    assert orjson.loads(event) == {
        "organization_id": str(cast.alice.organization.id),
        "project_id": str(cast.alice.project.id),
        "api_key_id": str(query_owner("SELECT api_key_id FROM batches_batch")[0][0]),
        "operation": "completions",
        "job": batch["id"],
        "model": MODEL,
        "requests": 2,
        "input_tokens": 20,
        "cached_tokens": 0,
        "output_tokens": 10,
        "cost_nanos": 20 * 50 + 10 * 100,
    }
    assert query_owner(
        "SELECT count(*) FROM metering_usageevent e JOIN batches_segment s ON e.source = 'segment:' || s.id"
    ) == [(1,)]


def test_a_price_that_changes_meanwhile_changes_nothing_for_a_running_batch(cast: Cast, tmp_path: Any) -> None:
    batch, grant = started(cast)
    change("UPDATE catalog_price SET effective_at = now() - interval '1 day'")
    add_model(tmp_path / "dear", batch=add_model_price(9_000))
    grant.put(0, [result(1)])
    assert retrieve(cast.alice, batch)["cost_nanos"] == 10 * 50 + 5 * 100
    later, grant = started(cast, node="node-2")
    grant.put(0, [result(1)])
    assert retrieve(cast.alice, later)["cost_nanos"] == 15 * 9_000


def test_the_same_segment_again_is_acknowledged_and_counts_once(cast: Cast) -> None:
    batch, grant = started(cast)
    rows = [result(1), result(2)]
    assert grant.put(0, rows).status_code == 201
    assert grant.put(1, [result(3)]).status_code == 201
    before = everything()
    for number, again in ((0, rows), (1, [result(3)]), (0, rows)):
        answer = grant.put(number, again)
        assert (answer.status_code, answer.json()) == (200, {})
    assert everything() == before
    assert retrieve(cast.alice, batch)["request_counts"]["completed"] == 3


def test_other_bytes_under_a_number_that_is_taken_are_refused(cast: Cast) -> None:
    _, grant = started(cast)
    grant.put(0, [result(1)])
    before = everything()
    assert_refused(grant.put(0, [result(2)]), 409, "segment_conflict", before)
    assert_refused(grant.put(0, [result(1, prompt_tokens=11)]), 409, "segment_conflict", before)


def test_a_number_out_of_turn_is_refused(cast: Cast) -> None:
    _, grant = started(cast)
    before = everything()
    for number in (1, 2, 10**30):
        assert_refused(grant.put(number, [result(1)]), 409, "segment_conflict", before)


def test_rows_that_are_not_of_the_lease_are_refused(cast: Cast, settings: Settings) -> None:
    settings.BATCH_SHARD_MAX_ROWS = 3
    _, grant = started(cast)
    submit(cast.charlie, jsonl([line(number) for number in range(1, 9)]))
    run_control()
    mine = [row["line"] for row in grant.rows()]
    before = everything()
    for foreign in (7 - mine[0], 8, 0, -1, 10**6, 2**31, 2**64 - 1):
        assert_refused(grant.put(0, [result(mine[0]), result(foreign)]), 409, "segment_conflict", before)


def test_a_row_that_has_its_result_is_refused(cast: Cast) -> None:
    _, grant = started(cast)
    grant.put(0, [result(1)])
    before = everything()
    assert_refused(grant.put(1, [result(1), result(2)]), 409, "segment_conflict", before)
    assert grant.put(1, [result(2)]).status_code == 201


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n\n",
    "no_json": b"nonsense\n",
    "cut_off": orjson.dumps(result(1))[:-5],
    "array": orjson.dumps([result(1)]),
    "wrong_encoding": orjson.dumps(result(1)).replace(b"answer", b"\xff\xfe"),
    "no_line": b'{"status": 200, "body": {}}',
    "line_text": b'{"line": "1", "status": 200, "body": {}}',
    "line_beyond_64_bits": b'{"line": 18446744073709551616, "status": 200, "body": {}}',
    "twice": orjson.dumps(result(1)) + b"\n" + orjson.dumps(result(1)),
    "too_many": b"\n".join(orjson.dumps(result(number)) for number in range(1, MAX_SEGMENT_ROWS + 2)),
    "status_500": orjson.dumps(refusal(1, 500)),
    "status_302": orjson.dumps(refusal(1, 302)),
    "status_100": orjson.dumps(refusal(1, 100)),
    "status_without_body": b'{"line": 1, "status": 200}',
    "neither": b'{"line": 1}',
    "both": orjson.dumps({**result(1), **failure(1)}),
    "deep": b'{"line": 1, "status": 200, "body": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}",
}


def test_a_body_that_is_no_segment_is_refused(cast: Cast) -> None:
    _, grant = started(cast)
    before = everything()
    refused = {name: put_bytes(grant, body) for name, body in BAD_BODIES.items()}
    assert {
        name: (answer.status_code, answer.json()["error"]["code"]) for name, answer in refused.items()
    } == dict.fromkeys(BAD_BODIES, (400, "invalid_request"))
    assert everything() == before


def test_a_segment_that_is_too_large_is_refused(cast: Cast) -> None:
    _, grant = started(cast)
    before = everything()
    assert_refused(put_bytes(grant, b" " * (MAX_SEGMENT_BYTES + 1)), 413, "request_too_large", before)


def test_a_segment_whose_connection_broke_between_two_rows_is_refused(cast: Cast) -> None:
    _, grant = started(cast)
    before = everything()
    whole = b"".join(orjson.dumps(result(number)) + b"\n" for number in (1, 2))
    arrived = whole[: whole.index(b"\n") + 1]
    answer = put_bytes(grant, b"", environment={"wsgi.input": BytesIO(arrived), "CONTENT_LENGTH": str(len(whole))})
    assert_refused(answer, 400, "invalid_request", before)


def test_a_full_store_keeps_nothing_and_a_later_try_succeeds(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, grant = started(cast)
    before = everything()
    with monkeypatch.context() as full:
        full.setattr(IncomingBlob, "write", _no_space)
        answer = grant.put(0, [result(1)])
    assert_refused(answer, 507, "storage_full", before)
    assert grant.put(0, [result(1)]).status_code == 201
    assert retrieve(cast.alice, batch)["request_counts"]["completed"] == 1
    assert accounts_agree(batch)


def test_answers_of_any_content_reach_the_customer_unchanged(cast: Cast) -> None:
    batch, grant = started(cast, rows=2)
    odd = result(1)
    odd["body"]["choices"][0]["message"]["content"] = 'line\nbreak \u2028 "quote" \0 🙂 \\u0000'
    assert grant.put(0, [odd, failure(2, "request_timeout")]).status_code == 201
    assert grant.complete().status_code == 200
    run_control()
    done = retrieve(cast.alice, batch)
    assert read_file(cast.alice, done["output_file_id"]) == [
        {
            "id": f"batch_req_{batch['id'].removeprefix('batch_')}00000001",
            "custom_id": "row-1",
            "response": {"status_code": 200, "request_id": "req_1", "body": odd["body"]},
            "error": None,
        }
    ]
    assert read_file(cast.alice, done["error_file_id"]) == [
        {
            "id": f"batch_req_{batch['id'].removeprefix('batch_')}00000002",
            "custom_id": "row-2",
            "response": None,
            "error": {"code": "request_timeout", "message": "in a test"},
        }
    ]


def test_a_lost_lease_changes_nothing_any_more(cast: Cast) -> None:
    _, grant = started(cast)
    grant.put(0, [result(1)])
    change("UPDATE fleet_lease SET epoch = epoch + 1 WHERE state = 'leased'")
    before = everything()
    assert grant.heartbeat() == "lost"
    answers = [
        grant.put(1, [result(2)]),
        grant.put(0, [result(1)]),
        grant.complete(),
        grant.fail(),
        grant.worker.call("GET", f"leases/{grant.id}/input", lease=grant),
    ]
    for answer in answers:
        assert_refused(answer, 409, "lease_lost", before)
        assert answer.headers["x-should-retry"] == "false"


def test_the_next_holder_gets_the_rows_without_result_and_the_next_number(cast: Cast) -> None:
    _, grant = started(cast)
    grant.put(0, [result(2), result(5)])
    grant.fail()
    change("UPDATE fleet_lease SET not_before = now()")
    again = grant.worker.lease()
    assert (again.id, again.epoch) == (grant.id, grant.epoch + 1)
    assert (again.work["rows"], again.work["next_segment"]) == (4, 1)
    assert [row["line"] for row in again.rows()] == [1, 3, 4, 6]
    assert grant.put(1, [result(1)]).status_code == 409
    assert again.put(1, [result(1)]).status_code == 201


def test_rows_are_sent_with_the_tenants_own_cache_salt(cast: Cast) -> None:
    _, grant = started(cast, rows=1)
    (row,) = grant.rows()
    salt = row["body"].pop("cache_salt")
    assert row == {"line": 1, "body": line(1)["body"]}
    submit(cast.charlie, jsonl([line(1)]))
    run_control()
    (theirs,) = Worker(name="node-2").lease().rows()
    assert len({salt, theirs["body"]["cache_salt"]}) == 2
    assert len(salt) == 64


def test_input_that_cannot_be_read_is_an_error_and_not_a_broken_stream(cast: Cast) -> None:
    _, grant = started(cast)
    ((key,),) = query_owner("SELECT storage_key FROM files_storedfile")
    (storage_root() / key).rename(storage_root() / "elsewhere")
    answer = grant.worker.call("GET", f"leases/{grant.id}/input", lease=grant)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


def test_a_shard_with_rows_left_cannot_be_completed(cast: Cast) -> None:
    _, grant = started(cast)
    grant.put(0, [result(1)])
    before = everything()
    assert_refused(grant.complete(), 409, "rows_missing", before)
    assert leases()[0].state == "leased"


def put_bytes(grant: Grant, body: bytes, *, environment: dict[str, Any] | None = None) -> Any:
    """PUT of segment 0 with any bytes."""
    headers = {"Authorization": f"Bearer {grant.worker.token}", LEASE_HEADER: grant.token}
    client = Client(raise_request_exception=False)
    path = f"/internal/v1/leases/{grant.id}/segments/0"
    return client.generic("PUT", path, body, "application/x-ndjson", headers=headers, **environment or {})


def add_model_price(nanos: int) -> Any:
    return TokenPrice(input_nanos=nanos, cached_input_nanos=nanos, output_nanos=nanos)


def _no_space(*_: object) -> None:
    with storage_errors():
        raise OSError(errno.ENOSPC, "No space left on device")
