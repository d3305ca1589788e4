"""Training beside TRL's plain ``SFTTrainer`` recipe: tokens a second, validation loss, memory.

``python -m tests.bench.training``. The same model, rows, batch size and LoRA settings; each run in a process of its
own, in turn. Two kinds of data: labels after one instruction, where a prompt's beginning is shared and little is
trained, and answers of many words to questions of many lengths, where only the system prompt is shared.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Template
from tokenizers import Tokenizer

from inference_workers.config import load_config
from infra.dev.instance import DEFAULT_NODE_CONFIG
from infra.dev.programs import ROOT, worker_python
from infra.dev.services import default_home

ROWS = int(os.environ.get("HONE_BENCH_TRAINING_ROWS", "128"))
ROUNDS = int(os.environ.get("HONE_BENCH_ROUNDS", "2"))
VALIDATION_ROWS = 48
BATCH = 16

_SUBJECTS = [
    "The parcel",
    "My order",
    "The lamp",
    "Your service",
    "The refund",
    "The new app",
    "Support",
    "The invoice",
]
_GOOD = ["arrived early", "works perfectly", "made my day", "was solved in minutes", "is worth every cent"]
_BAD = ["never arrived", "broke after a day", "was charged twice", "keeps crashing", "left me waiting for weeks"]
_FILLERS = [
    "I ordered it for my sister, who moved last month.",
    "To be clear, I have been a customer for six years now.",
    "Nobody told me anything about it before.",
    "It came with a printed card and two spare screws.",
    "My neighbour has the same one, in green.",
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One measured training; ``seconds`` are those of its steps."""

    tokens: int
    seconds: float
    validation_loss: float
    peak_mb: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure() -> dict[str, Any]:
    """Figures by kind of data; prints a table."""
    home = default_home()
    subprocess.run(
        [worker_python(), "-m", "inference_workers", "prepare", "--config", str(DEFAULT_NODE_CONFIG)],
        env=os.environ | {"HONE_HOME": str(home)}, cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    config = load_config(DEFAULT_NODE_CONFIG, {"HONE_HOME": str(home)})
    model = config.model_folder(config.models[0])
    found = {}
    for kind, make in (("labels", _labels), ("answers", _answers)):
        found[kind] = _compare(kind, model, make)
    return found


def _compare(kind: str, model: Path, make: Any) -> dict[str, Any]:
    ours: list[Run] = []
    plain: list[Run] = []
    print(f"  {kind:8} tokens/s  validation loss  peak MB", flush=True)
    for number in range(ROUNDS):
        # Each goes first in its turn, so that a machine that slows down or speeds up favours neither.
        order = [(ours, _hone), (plain, _trl)]
        for runs, train in order if number % 2 == 0 else reversed(order):
            with tempfile.TemporaryDirectory() as work:
                _write_folder(Path(work), model, make)
                runs.append(train(Path(work)))
            name = "Hone" if runs is ours else "TRL"
            last = runs[-1]
            print(
                f"  {name:8} {last.tokens_per_second:8.1f}  {last.validation_loss:15.4f}  {last.peak_mb:7.0f}",
                flush=True,
            )
    pairs = list(zip(ours, plain, strict=True))
    ratios = {
        "tokens_per_second": [one.tokens_per_second / other.tokens_per_second for one, other in pairs],
        "validation_loss": [one.validation_loss / other.validation_loss for one, other in pairs],
        "peak_memory": [one.peak_mb / other.peak_mb for one, other in pairs],
    }
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    print("  Hone over TRL: " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items()), flush=True)
    return {
        "rows": ROWS,
        "batch_size": BATCH,
        "hone": [asdict(run) for run in ours],
        "trl": [asdict(run) for run in plain],
        "hone_over_trl": {"median": medians, "runs": ratios},
    }


def _hone(folder: Path) -> Run:
    _, peak = _finished([str(worker_python()), "-m", "inference_workers.training", str(folder)])
    events = [json.loads(line) for line in (folder / "events.ndjson").read_text().splitlines()]
    steps = [event for event in events if event["kind"] == "metrics"]
    totals = [0, *(event["trained_tokens"] for event in steps)]
    tokens = [after - before for before, after in pairwise(totals)]
    seconds = sum(count / event["tokens_per_second"] for count, event in zip(tokens, steps, strict=True))
    return Run(tokens=totals[-1], seconds=seconds, validation_loss=steps[-1]["valid_loss"], peak_mb=peak)


def _trl(folder: Path) -> Run:
    output, peak = _finished([str(worker_python()), str(ROOT / "tests" / "bench" / "trl_trainer.py"), str(folder)])
    return Run(**json.loads(output.splitlines()[-1]), peak_mb=peak)


def _finished(command: list[str]) -> tuple[str, float]:
    """(standard output, peak megabytes of resident memory) of a program that must succeed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return output, usage.ru_maxrss / 1024


def _write_folder(folder: Path, model: Path, make: Any) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    template = Template((model / "chat_template.jinja").read_text())
    source = random.Random(7)
    for name, count in (("train", ROWS), ("validation", VALIDATION_ROWS)):
        rows = (_row(tokenizer, template, *make(source)) for _ in range(count))
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "base_folder": str(model),
        "method": "supervised",
        "seed": 7,
        "n_epochs": 1,
        "batch_size": BATCH,
        "learning_rate": 5e-4,
        "scheduler": "linear",
        "max_grad_norm": 1.0,
        "max_seq_length": 1024,
        "device": "cpu",
        "lora": {"r": 16, "alpha": 32},
    }
    (folder / "spec.json").write_text(json.dumps(spec))


def _row(tokenizer: Tokenizer, template: Template, question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.encode(template.render(messages=messages, add_generation_prompt=True)).ids
    ids = prompt + tokenizer.encode(answer + "<|im_end|>").ids
    return {"line": 1, "ids": ids, "trained": [[len(prompt), len(ids)]]}


def _labels(source: random.Random) -> tuple[str, str]:
    label = source.choice(["positive", "negative"])
    said = f"{source.choice(_SUBJECTS)} {source.choice(_GOOD if label == 'positive' else _BAD)}."
    review = _spread(source, [said])
    return f"Is this review positive or negative? Answer with one word.\n\n{review}", label


def _answers(source: random.Random) -> tuple[str, str]:
    subject = source.choice(_SUBJECTS)
    complaint = f"{subject} {source.choice(_BAD)}."
    question = _spread(source, [complaint])
    start = f"I am sorry to hear that {subject[0].lower()}{subject[1:]} has been a trouble."
    steps = [
        f"Please send us the number of your order, which begins with {source.randrange(10, 99)}.",
        f"Within {source.randrange(2, 9)} days a colleague will write to you.",
        "If you prefer a refund, tell us so and it is made today.",
        "You need not send anything back.",
    ]
    chosen = source.sample(steps, source.randrange(1, len(steps) + 1))
    return question, " ".join([start, *chosen])


def _spread(source: random.Random, sentences: list[str]) -> str:
    """Among other sentences, most often few, sometimes many."""
    others = source.choices(_FILLERS, k=min(9, int(source.expovariate(0.5))))
    mixed = [*sentences, *others]
    source.shuffle(mixed)
    return " ".join(mixed)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
    sys.exit(0)
