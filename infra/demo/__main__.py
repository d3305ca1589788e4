"""An airline's support team sorts and answers its customers' messages, as one batch through the ``openai`` SDK."""

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types import Batch

from infra.demo.messages import Message, load_messages
from infra.dev.instance import Instance, running_instance
from infra.dev.processes import ServicesError
from infra.dev.services import default_home

MODEL = "smollm2-135m-instruct"
MESSAGES = 100
SENTIMENTS = ["negative", "neutral", "positive"]
NANOS_PER_USD = 1_000_000_000

_SORT = (
    "You sort messages that customers send to an airline. Say whether the customer is unhappy (negative), asks or "
    "states something plainly (neutral), or is pleased (positive)."
)
_EXAMPLES = [
    ("@airline you lost my bag and nobody answers the phone!", "negative"),
    ("@airline thank you, the crew on my flight was wonderful", "positive"),
    ("@airline do you fly from Boston to Denver on Sundays?", "neutral"),
]
_ANSWER = (
    "You work for an airline's customer service. Answer the customer in two short, friendly and concrete sentences: "
    "show that you understood, and say what happens next. Write plain text."
)


@dataclass
class Stopwatch:
    """How long each part took, in seconds."""

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time one part and say that it begins."""
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        yield
        self.parts[name] = time.monotonic() - started


def main() -> int:
    """Run the demonstration; the exit status."""
    home = default_home()
    watch = Stopwatch()
    try:
        with watch.part("Load real customer messages"):
            messages = load_messages(MESSAGES, cache=home / "demo")
            print(f"{len(messages)} messages, for example: {messages[0].text}")
        with ExitStack() as stack:
            with watch.part("Start everything: PostgreSQL, Valkey, control plane, vLLM (prepares the model once)"):
                port = int(os.environ["PORT"]) if "PORT" in os.environ else None
                instance = stack.enter_context(running_instance(home=home, port=port))
                print(f"Hone answers at {instance.base_url}; its log is {home / 'logs' / 'run.log'}")
            with watch.part("Create an organisation"):
                made = _create_organization(instance)
                print(f"{made['organization_id']} with {made['project_id']}")
            client = OpenAI(base_url=f"{instance.base_url}/v1", api_key=made["api_key"])
            batch, output = _run_batch(client, messages, watch)
            with watch.part("Stop everything"):
                stack.close()
    except ServicesError as error:
        print(error, file=sys.stderr)
        return 1
    answered = _report(messages, batch, output, home / "demo" / "results.csv")
    print("\nWhere the time went")
    for name, seconds in watch.parts.items():
        print(f"  {seconds:7.1f} s  {name}")
    if not answered:
        print("\nNot every row was answered.", file=sys.stderr)
    return 0 if answered else 1


def _create_organization(instance: Instance) -> dict[str, str]:
    arguments = ("--name", "Example Airlines", "--owner-email", "owner@example.com", "--credit-usd", "5")
    made: dict[str, str] = json.loads(instance.manage("create_organization", *arguments).splitlines()[-1])
    return made


def _requests(messages: list[Message]) -> Iterator[dict[str, Any]]:
    examples = [
        turn
        for text, sentiment in _EXAMPLES
        for turn in (
            {"role": "user", "content": text},
            {"role": "assistant", "content": json.dumps({"sentiment": sentiment})},
        )
    ]
    schema = {
        "type": "object",
        "properties": {"sentiment": {"type": "string", "enum": SENTIMENTS}},
        "required": ["sentiment"],
        "additionalProperties": False,
    }
    for number, message in enumerate(messages, start=1):
        question = {"role": "user", "content": message.text}
        sort = {
            "model": MODEL,
            "messages": [{"role": "system", "content": _SORT}, *examples, question],
            "response_format": {"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema}},
            "temperature": 0,
            "max_tokens": 24,
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


def _run_batch(client: OpenAI, messages: list[Message], watch: Stopwatch) -> tuple[Batch, list[dict[str, Any]]]:
    with watch.part("Upload the requests and create the batch"):
        content = "".join(json.dumps(request) + "\n" for request in _requests(messages)).encode()
        file = client.files.create(file=("messages.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"demo": "airline"},
        )
        print(f"{file.id}: {file.bytes} bytes; {batch.id}: {batch.status}")
    with watch.part("Sort and answer"):
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
        sentiment = json.loads(texts.get(f"sort-{number}") or '{"sentiment": ""}')["sentiment"]
        rows.append((message, sentiment, " ".join((texts.get(f"answer-{number}") or "").split())))
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
        print("\nUsage and cost")
        print(f"  rows           {counts.completed} answered, {counts.failed} failed, of {counts.total}")
        print(f"  input tokens   {usage.input_tokens} ({usage.input_tokens_details.cached_tokens} from the cache)")
        print(f"  output tokens  {usage.output_tokens}")
        print(f"  cost           ${cost / NANOS_PER_USD:.9f} ({cost} nano-dollars)")
    return batch.status == "completed" and len(texts) == 2 * len(messages)


if __name__ == "__main__":
    sys.exit(main())
