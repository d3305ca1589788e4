"""Processes are killed, and the broker wiped, while a batch runs on real vLLM."""

import os
import signal

import pytest

from infra.dev.instance import Instance
from tests.e2e.jobs import MODEL, completed, output, requests, submit, wait_for_end, wait_for_rows
from tests.support.customers import Customer

ROWS = 160
TOKENS = 24


@pytest.mark.chaos
def test_a_batch_survives_the_death_of_every_process(instance: Instance, alice: Customer) -> None:
    client = alice.client.with_options(max_retries=5)
    batch = submit(client, requests(ROWS, max_tokens=TOKENS))
    wait_for_rows(client, batch, 1)
    os.kill(instance.pid("agent"), signal.SIGKILL)
    wait_for_rows(client, batch, completed(client.batches.retrieve(batch.id)) + 8)
    instance.services.wipe_valkey()
    os.kill(instance.pid("web"), signal.SIGKILL)
    wait_for_rows(client, batch, completed(batch) + 24)
    os.kill(instance.engine(MODEL).pid, signal.SIGKILL)
    os.kill(instance.pid("control"), signal.SIGKILL)
    done = wait_for_end(client, batch, seconds=900)
    assert done.status == "completed", done
    answers = output(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"row-{number}" for number in range(1, ROWS + 1)]
    assert done.error_file_id is None
    assert done.usage is not None
    usages = [answer["response"]["body"]["usage"] for answer in answers]
    assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages) == ROWS * TOKENS
