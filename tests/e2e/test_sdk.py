"""The unmodified ``openai`` SDK in strict mode, against real vLLM."""

import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.jobs import ENDPOINT, MODEL, completed, output, requests, submit, wait_for_end, wait_for_rows
from tests.support.customers import Customer


def test_a_batch_from_upload_to_output_and_error_file(alice: Customer) -> None:
    client = alice.client
    good = requests(20)
    bad = b'{"custom_id": "broken"\n'
    rejected_by_the_engine = requests(1, temperature=-5).replace(b"row-1", b"too-cold")
    batch = submit(
        client, good + bad + rejected_by_the_engine, metadata={"team": "support"}, extra_body={"on_invalid": "skip"}
    )
    assert batch.status == "validating"
    assert batch.metadata == {"team": "support"}
    done = wait_for_end(client, batch)
    assert done.status == "completed", done
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (22, 20, 2)
    answers = output(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"row-{number}" for number in range(1, 21)]
    assert all(answer["response"]["status_code"] == 200 for answer in answers)
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    failures = output(client, done.error_file_id)
    assert [failure["custom_id"] for failure in failures] == [None, "too-cold"]
    assert failures[0]["error"]["code"] == "invalid_json_line"
    assert failures[0]["line"] == 21
    assert failures[1]["response"]["status_code"] == 400
    assert done.usage is not None
    bodies = [answer["response"]["body"]["usage"] for answer in answers]
    assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in bodies)
    assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in bodies) == 20 * 16


async def test_the_asynchronous_sdk_runs_two_batches_side_by_side(alice: Customer) -> None:
    async with AsyncOpenAI(base_url=alice.base_url, api_key=alice.api_key, _strict_response_validation=True) as client:
        files = [await client.files.create(file=("rows.jsonl", requests(6)), purpose="batch") for _ in range(2)]
        batches = [
            await client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
            for file in files
        ]
        for batch in batches:
            done = wait_for_end(alice.client, batch)
            assert done.status == "completed"
            assert done.output_file_id is not None
            content = await client.files.content(done.output_file_id)
            assert len(content.text.splitlines()) == 6


def test_lists_are_paged_without_gaps_or_repeats(alice: Customer) -> None:
    client = alice.client
    batches = [submit(client, requests(1, max_tokens=2)).id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert page.has_more
    assert [batch.id for batch in page] == batches[::-1]
    first_page = client.files.list(limit=2, purpose="batch")
    assert len(first_page.data) == 2
    listed = [file.id for file in first_page]
    assert len(listed) == len(set(listed)) == 5
    for batch_id in batches:
        wait_for_end(client, client.batches.retrieve(batch_id))


def test_a_cancelled_batch_keeps_its_partial_output(alice: Customer) -> None:
    client = alice.client
    batch = submit(client, requests(150, max_tokens=64))
    wait_for_rows(client, batch, 8)
    cancelling = client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    done = wait_for_end(client, batch, seconds=60)
    assert done.status == "cancelled"
    assert done.request_counts is not None
    assert 8 <= completed(done) < 150
    assert completed(done) + done.request_counts.failed == 150
    answers, rest = output(client, done.output_file_id), output(client, done.error_file_id)
    assert len(answers) == completed(done)
    assert {failure["error"]["code"] for failure in rest} == {"batch_cancelled"}
    assert done.usage is not None
    assert done.usage.output_tokens == 64 * len(answers)


def test_models_are_listed(alice: Customer) -> None:
    assert [model.id for model in alice.client.models.list()] == [MODEL]
    assert alice.client.models.retrieve(MODEL).owned_by == "hone"


def test_errors_have_their_class_code_and_request_id(alice: Customer, charlie: Customer) -> None:
    batch = submit(alice.client, requests(1, max_tokens=2))
    with pytest.raises(openai.NotFoundError) as stranger:
        charlie.client.batches.retrieve(batch.id)
    assert stranger.value.code == "not_found"
    assert (stranger.value.request_id or "").startswith("req_")
    with pytest.raises(openai.NotFoundError):
        charlie.client.batches.cancel(batch.id)
    with (
        openai.OpenAI(base_url=alice.base_url, api_key="hone_sk_no_key") as stray,
        pytest.raises(openai.AuthenticationError) as unknown,
    ):
        stray.models.list()
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as invalid:
        alice.client.batches.create(input_file_id="file-1", endpoint=ENDPOINT, completion_window="1 h")  # type: ignore[arg-type]
    assert (invalid.value.code, invalid.value.param) == ("invalid_value", "completion_window")
    with (
        openai.OpenAI(base_url=alice.base_url, api_key=alice.admin_key) as administrator,
        pytest.raises(openai.PermissionDeniedError) as wrong_kind,
    ):
        administrator.models.list()
    assert wrong_kind.value.code == "wrong_key_type"
    running = submit(alice.client, requests(40, max_tokens=64))
    with pytest.raises(openai.ConflictError) as in_use:
        alice.client.files.delete(running.input_file_id)
    assert in_use.value.code == "file_in_use"
    alice.client.batches.cancel(running.id)
    wait_for_end(alice.client, running)
