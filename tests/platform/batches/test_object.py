"""Every state of a batch is what the unmodified SDK's types say, strictly."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from batches.closing import close_due_batches
from tests.support.cast import Cast
from tests.support.facts import let_window_close
from tests.support.rows import cancel, jsonl, line, retrieve, submit
from tests.support.sdk import sdk
from tests.support.server import Server
from tests.support.worker import Worker, result, run_control


class HoneBatch(Batch):
    """A batch with what Hone adds to it."""

    paused: bool
    retry_of: str | None


class Items(openai.BaseModel):
    """A page of whatever it is."""

    data: list[dict[str, Any]]
    last_id: str | None
    has_more: bool


@pytest.fixture
def client(server: Server, cast: Cast) -> Iterator[OpenAI]:
    with sdk(server, cast.alice) as client:
        yield client


def reach(cast: Cast, status: str) -> Any:
    """A batch in this state."""
    content = b"bad\n" if status == "failed" else jsonl([line(1), line(2)])
    batch = submit(cast.alice, content, metadata={"a": "b"})
    if status == "validating":
        return batch
    run_control()
    match status:
        case "finalizing" | "completed":
            Worker().answer_all()
        case "cancelling" | "cancelled" | "expired":
            grant = Worker().lease()
            grant.put(0, [result(2)])
            if status == "expired":
                let_window_close(batch)
                close_due_batches()
            else:
                cancel(cast.alice, batch)
            if status != "cancelling":
                grant.fail("cancelled")
    if status in ("completed", "cancelled", "expired"):
        run_control()
    return batch


TIMESTAMPS = {
    "validating": set(),
    "failed": {"failed_at"},
    "in_progress": {"in_progress_at"},
    "finalizing": {"in_progress_at", "finalizing_at"},
    "completed": {"in_progress_at", "finalizing_at", "completed_at"},
    "cancelling": {"in_progress_at", "cancelling_at"},
    "cancelled": {"in_progress_at", "cancelling_at", "finalizing_at", "cancelled_at"},
    "expired": {"in_progress_at", "finalizing_at", "expired_at"},
}
ALL_TIMESTAMPS = set().union(*TIMESTAMPS.values())


@pytest.mark.parametrize("status", TIMESTAMPS)
def test_every_state_is_what_the_sdk_expects(cast: Cast, client: OpenAI, status: str) -> None:
    shown = reach(cast, status)
    batch = client.batches.retrieve(shown["id"])
    assert batch.status == status
    raw = retrieve(cast.alice, shown)
    Batch.model_validate(raw, strict=True)
    assert {name for name in ALL_TIMESTAMPS if raw[name] is not None} == TIMESTAMPS[status]
    assert raw["expires_at"] == raw["created_at"] + 86_400 or status == "expired"
    assert raw["metadata"] == {"a": "b"}
    assert (raw["errors"] is not None) == (status == "failed")
    counts = batch.request_counts
    assert counts is not None
    has_ended = status in ("completed", "cancelled", "expired")
    assert (counts.completed + counts.failed == counts.total) == (
        has_ended or status in ("validating", "failed", "finalizing")
    )
    assert batch.usage is not None
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens


def test_errors_are_a_list_of_the_sdks_own_type(cast: Cast, client: OpenAI) -> None:
    errors = client.batches.retrieve(reach(cast, "failed")["id"]).errors
    assert errors is not None
    assert errors.data is not None
    assert errors.object == "list"
    assert [(error.code, error.line, error.param) for error in errors.data] == [("invalid_json_line", 1, None)]


def test_listing_and_cancelling_through_the_sdk(cast: Cast, client: OpenAI) -> None:
    batches = [reach(cast, "in_progress")["id"] for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == batches[::-1]
    assert client.batches.cancel(batches[0]).status == "cancelling"
    run_control()
    assert client.batches.retrieve(batches[0]).status == "cancelled"


def test_errors_come_as_the_sdks_classes_with_code_and_request_id(cast: Cast, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.batches.retrieve(f"batch_{'0' * 32}")
    assert (missing.value.code, missing.value.param) == ("not_found", "id")
    assert missing.value.request_id
    done = reach(cast, "completed")
    with pytest.raises(openai.ConflictError) as conflict:
        client.batches.cancel(done["id"])
    assert conflict.value.code == "conflict"
    with pytest.raises(openai.BadRequestError) as bad:
        client.batches.create(
            input_file_id=done["output_file_id"] or retrieve(cast.alice, done)["output_file_id"],
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
    assert bad.value.code == "invalid_purpose"


def test_what_hone_adds_through_the_sdk(server: Server, cast: Cast) -> None:
    """Fields and routes that it has no names for, with the project's key: it would choose the admin key otherwise."""
    requests = [line(number) for number in (1, 2, 3)]
    asked = {"requests": requests, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with sdk(server, cast.alice, admin_api_key=None) as client:
        batch = client.post("/batches", body=asked, cast_to=HoneBatch)
        run_control()
        assert client.post(f"/batches/{batch.id}/pause", cast_to=HoneBatch).paused
        assert not client.post(f"/batches/{batch.id}/resume", cast_to=HoneBatch).paused
        grant = Worker().lease()
        grant.put(0, [result(1)])
        path = f"/batches/{batch.id}/results"
        page = client.get(path, cast_to=Items, options={"params": {"limit": 2}})
        rest = client.get(path, cast_to=Items, options={"params": {"after": page.last_id}})
        assert [(row["line"], row["status"]) for row in page.data + rest.data] == [
            (1, "completed"), (2, "in_progress"), (3, "in_progress"),
        ]  # fmt: skip
        assert (page.has_more, rest.has_more) == (True, False)
        client.batches.cancel(batch.id)
        grant.fail("cancelled")
        run_control()
        again = client.post(f"/batches/{batch.id}/retry", cast_to=HoneBatch)
        assert (again.status, again.retry_of) == ("validating", batch.id)
        found = client.get("/batches", cast_to=Items, options={"params": {"status": "cancelled"}})
        assert [each["id"] for each in found.data] == [batch.id]
