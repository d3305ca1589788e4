"""An airline's support team trains a model that sorts its customers' messages, then sorts and answers them with it.

All of it goes through the ``openai`` SDK: file, fine-tuning job, evaluation, batch, and what it has cost.
"""

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from infra.demo.messages import Message, load_messages
from infra.demo.stopwatch import Stopwatch
from infra.demo.training import NANOS_PER_USD, Sorter, train
from infra.dev.instance import Instance, empty_home, running_instance
from infra.dev.processes import ServicesError
from infra.dev.services import default_home

MODEL = "smollm2-135m-instruct"
SORTED_BY_PEOPLE = 240
"""Messages to train and to evaluate with."""
MESSAGES = 100
"""Others, that come in afterwards."""
SENTIMENTS = ["negative", "neutral", "positive"]

_ANSWER = (
    "You work for an airline's customer service. Answer the customer in two short, friendly and concrete sentences: "
    "show that you understood, and say what happens next. Write plain text."
)


def main() -> int:
    """Run the demonstration; the exit status."""
    home = default_home()
    watch = Stopwatch()
    try:
        with watch.part("Load real customer messages"):
            known = load_messages(SORTED_BY_PEOPLE + MESSAGES, cache=home / "demo")
            messages, examples = known[:MESSAGES], known[MESSAGES:]
            print(f"{len(known)} messages, for example: {messages[0].text}")
        with ExitStack() as stack:
            with watch.part("Start everything: PostgreSQL, Valkey, control plane, vLLM (prepares the model once)"):
                port = int(os.environ["PORT"]) if "PORT" in os.environ else None
                instance = stack.enter_context(running_instance(home=empty_home("demo-instance"), port=port))
                print(f"Hone answers at {instance.base_url}; its log is {instance.home / 'logs' / 'run.log'}")
            with watch.part("Create an organisation"):
                made = _create_organization(instance)
                print(f"{made['organization_id']} with {made['project_id']}")
            client = OpenAI(base_url=f"{instance.base_url}/v1", api_key=made["api_key"])
            sorter = train(client, MODEL, examples, watch)
            if sorter is None:
                return 1
            batch, output = _run_batch(client, messages, sorter, watch)
            with watch.part("Stop everything"):
                stack.close()
    except ServicesError as error:
        print(error, file=sys.stderr)
        return 1
    answered = _report(messages, batch, output, home / "demo" / "results.csv")
    watch.report()
    if not answered:
        print("\nNot every row was answered.", file=sys.stderr)
    return 0 if answered else 1


def _create_organization(instance: Instance) -> dict[str, str]:
    arguments = ("--name", "Example Airlines", "--owner-email", "owner@example.com", "--credit-usd", "5")
    made: dict[str, str] = json.loads(instance.manage("create_organization", *arguments).splitlines()[-1])
    return made


def _requests(messages: list[Message], sorter: Sorter) -> Iterator[dict[str, Any]]:
    """Each message is sorted by the tuned model and answered by the base model, in one batch."""
    for number, message in enumerate(messages, start=1):
        question = {"role": "user", "content": message.text}
        sort = {
            "model": sorter.model,
            "messages": [{"role": "system", "content": sorter.instructions}, question],
            "structured_outputs": {"choice": SENTIMENTS},
            "temperature": 0,
            "max_tokens": 8,
        }
        answer = {
            "model": MODEL,
            "messages": [{"role": "system", "content": _ANSWER}, question],
            "temperature": 0,
            "max_tokens": 80,
        }
        for task, body in (("sort", sort), ("answer", answer)):
            yield {
                "custom_id": f"{task}-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }


def _run_batch(
    client: OpenAI, messages: list[Message], sorter: Sorter, watch: Stopwatch
) -> tuple[Batch, list[dict[str, Any]]]:
    with watch.part(f"Upload {2 * len(messages)} requests and create the batch"):
        content = "".join(json.dumps(request) + "\n" for request in _requests(messages, sorter)).encode()
        file = client.files.create(file=("messages.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"demo": "airline"},
        )
        print(f"{file.id}: {file.bytes} bytes; {batch.id}: {batch.status}")
    with watch.part(f"Sort with {sorter.model}, answer with {MODEL}"):
        shown = ""
        while batch.status in ("validating", "in_progress", "finalizing"):
            counts = batch.request_counts
            line = f"  {batch.status:12} {counts.completed:4} of {counts.total} rows" if counts else f"  {batch.status}"
            if line != shown:
                print(line, flush=True)
                shown = line
            time.sleep(1)
            batch = client.batches.retrieve(batch.id)
        print(f"  {batch.status}")
    with watch.part("Read the results"):
        output: list[dict[str, Any]] = []
        if batch.output_file_id:
            output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        if batch.error_file_id:
            print(client.files.content(batch.error_file_id).text)
        print(f"{len(output)} answers")
    return batch, output


def _report(messages: list[Message], batch: Batch, output: list[dict[str, Any]], results: Path) -> bool:
    texts = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in output}
    rows = []
    for number, message in enumerate(messages, start=1):
        rows.append(
            (message, texts.get(f"sort-{number}") or "", " ".join((texts.get(f"answer-{number}") or "").split()))
        )
    with results.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["message", "sentiment", "sentiment_by_people", "answer"])
        writer.writerows((message.text, sentiment, message.sentiment, answer) for message, sentiment, answer in rows)
    print("\nSome of the results")
    for message, sentiment, answer in rows[:6]:
        print(f"\n  customer:  {message.text}\n  sorted as: {sentiment} (people said {message.sentiment})")
        print(f"  answer:    {answer}")
    agreed = sum(sentiment == message.sentiment for message, sentiment, _ in rows)
    counted = Counter(sentiment for _, sentiment, _ in rows)
    print(f"\nSorted: {dict(counted)}; people agree with {agreed} of {len(rows)}")
    print(f"All of them: {results}")
    usage, counts = batch.usage, batch.request_counts
    if usage and counts:
        cost = (batch.model_extra or {})["cost_nanos"]
        print("\nUsage and cost of the batch")
        print(f"  rows           {counts.completed} answered, {counts.failed} failed, of {counts.total}")
        print(f"  input tokens   {usage.input_tokens} ({usage.input_tokens_details.cached_tokens} from the cache)")
        print(f"  output tokens  {usage.output_tokens}")
        print(f"  cost           ${cost / NANOS_PER_USD:.9f} ({cost} nano-dollars)")
    return batch.status == "completed" and len(texts) == 2 * len(messages)


if __name__ == "__main__":
    sys.exit(main())
