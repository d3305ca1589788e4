"""The team fine-tunes a model on messages that people have sorted, and compares it with the base model."""

import csv
import io
import json
import time
from dataclasses import dataclass
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from infra.demo.messages import Message
from infra.demo.stopwatch import Stopwatch

RECIPE = "sentiment"
ALIAS = "message-sorter"
HELD_OUT = 0.25
"""Part of the messages that the training never sees: what both models are compared on."""
NANOS_PER_USD = 1_000_000_000
_MAPPING = {"columns": {"text": "message", "label": "sentiment"}}
_SECONDS_BETWEEN_METRICS = 10.0
_FIGURES = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "cross_entropy", "perplexity")


@dataclass(frozen=True)
class Sorter:
    """What sorts messages now."""

    model: str
    """The alias where the gate has let the tuned model have it, else the tuned model's own name."""
    instructions: str
    """The system prompt that it was trained with."""


def train(client: OpenAI, base: str, messages: list[Message], watch: Stopwatch) -> Sorter | None:
    """Upload, look, train, compare; None where the job has not succeeded."""
    with watch.part(f"Upload {len(messages)} messages that people have sorted; what the report says of them"):
        file = client.files.create(file=("messages.csv", _table(messages)), purpose="fine-tune")
        _print_report(_report(client, file.id))
    with watch.part(f"Fine-tune {base} on this machine, and evaluate it on the rows that it never saw"):
        job = client.fine_tuning.jobs.create(
            model=base,
            training_file=file.id,
            suffix="airline",
            seed=7,
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 16}}},
            extra_body={
                "recipe": RECIPE,
                "column_mapping": _MAPPING,
                "validation_fraction": HELD_OUT,
                "alias": ALIAS,
                "promote_if": {"metric": "accuracy", "min_gain": 0.05},
            },
        )
        job = _follow(client, job)
        cost = (job.model_extra or {})["cost_nanos"]
        print(f"{job.status}: {job.fine_tuned_model}; {job.trained_tokens} tokens, ${cost / NANOS_PER_USD:.9f}")
        if job.error is not None and job.error.message:
            print(job.error.message)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        return None
    evaluation = _get(client, f"/fine_tuning/jobs/{job.id}/evaluation")
    _print_evaluation(evaluation)
    messages_of_a_row = _get(client, f"/fine_tuning/recipes/{RECIPE}")["messages"]
    is_promoted = (evaluation["gate"] or {}).get("promoted")
    return Sorter(ALIAS if is_promoted else job.fine_tuned_model, messages_of_a_row[0]["content"])


def _table(messages: list[Message]) -> bytes:
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["message", "sentiment"])
    writer.writerows((message.text, message.sentiment) for message in messages)
    return table.getvalue().encode()


def _report(client: OpenAI, file_id: str) -> Any:
    query = {"recipe": RECIPE, "column_mapping": json.dumps(_MAPPING)}
    while (report := _get(client, f"/files/{file_id}/report", query))["status"] in ("queued", "running"):
        time.sleep(0.5)
    return report


def _print_report(report: Any) -> None:
    statistics, quote = report["statistics"], report["quote"]
    labels = ", ".join(f"{label['label']} {label['rows']}" for label in report["labels"])
    print(f"  rows            {report['rows']['valid']} good, {report['rows']['invalid']} bad ({labels})")
    print(f"  tokens a row    {statistics['tokens']['mean']} on average, {statistics['tokens']['max']} at most")
    print(f"  an epoch        {quote['tokens_per_epoch']} tokens, ${quote['cost_nanos_per_epoch'] / NANOS_PER_USD:.9f}")
    for name in ("exact", "same_question", "near"):
        print(f"  {'duplicates, ' + name:31} {report['duplicates'][name]['rows']}")
    for warning in report["warnings"]:
        print(f"  warning         {warning['code']}: {warning['rows']} rows. {warning['message']}")


def _follow(client: OpenAI, job: FineTuningJob) -> FineTuningJob:
    """Print what happens to the job until it has ended."""
    last, shown_at = None, 0.0
    while True:
        ended = job.status in ("succeeded", "failed", "cancelled")
        for event in _events_after(client, job.id, last):
            last = event.id
            is_due = time.monotonic() - shown_at > _SECONDS_BETWEEN_METRICS
            if event.type != "metrics" or is_due:
                print(f"  {event.message}", flush=True)
                shown_at = time.monotonic() if event.type == "metrics" else shown_at
        if ended:
            return job
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)


def _events_after(client: OpenAI, job_id: str, last: str | None) -> list[FineTuningJobEvent]:
    """In the order in which they happened."""
    query: dict[str, Any] = {"order": "asc", **({"after": last} if last else {})}
    return list(client.fine_tuning.jobs.list_events(job_id, limit=100, extra_query=query))


def _print_evaluation(evaluation: Any) -> None:
    print(f"\nOn {evaluation['rows']} messages that the training never saw{'':18}base     tuned      gain")
    for name in _FIGURES:
        figure = evaluation["metrics"].get(name)
        if figure is not None:
            print(f"  {name:48} {figure['base']:8.4f}  {figure['tuned']:8.4f}  {figure['gain']:+8.4f}")
    interval = evaluation["metrics"]["accuracy"]["interval"]
    if interval is not None:
        print(f"  with 95 % confidence the accuracy has gained {interval[0]:+.3f} to {interval[1]:+.3f}")
    for of_class in evaluation["classes"]:
        base, tuned = of_class["base"]["f1"], of_class["tuned"]["f1"]
        print(f"  f1 of {of_class['label']:42} {base:8.4f}  {tuned:8.4f}  {tuned - base:+8.4f}")
    for sample in evaluation["samples"]["improved"][:3]:
        print(f"  {sample['prompt']}")
        print(f"    base {sample['base']['text']!r}, tuned {sample['tuned']['text']!r}, people {sample['reference']!r}")
    gate = evaluation["gate"]
    print(f"  the alias {gate['alias']} {'moves' if gate['promoted'] else 'stays'}: {'; '.join(gate['reasons'])}")


def _get(client: OpenAI, path: str, query: dict[str, str] | None = None) -> Any:
    """A route that is Hone's own."""
    return client.get(path, cast_to=object, options={"params": query or {}})
