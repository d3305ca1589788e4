"""A trainer that trains nothing: keeps the contract of ``inference_workers.training`` in a few milliseconds a step.

``scripted_trainer.py [-m inference_workers.training] FOLDER``. One row of ``train.ndjson`` is one step; what it reports
of a step depends on seed and step alone, as of the real one. From the environment: ``SCRIPT_STEP_MS``,
``SCRIPT_CHECKPOINT_STEPS`` (an interim checkpoint every so many steps), ``SCRIPT_FAIL_AT`` (a step at which it fails),
``SCRIPT_DIE_AT`` (one at which it is gone), ``SCRIPT_STUBBORN`` (it hears no SIGTERM).
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[-1])
STEP_SECONDS = float(os.environ.get("SCRIPT_STEP_MS", "20")) / 1000
CHECKPOINT_STEPS = int(os.environ.get("SCRIPT_CHECKPOINT_STEPS", "4"))
FAIL_AT = int(os.environ.get("SCRIPT_FAIL_AT", "0"))
DIE_AT = int(os.environ.get("SCRIPT_DIE_AT", "0"))

_wish = {"stop": False}


class Events:
    """The event file, continued where it ends."""

    def __init__(self) -> None:
        path = FOLDER / "events.ndjson"
        self._seq = len(path.read_bytes().splitlines()) if path.exists() else 0
        self._stream = path.open("ab")

    def write(self, kind: str, **values: Any) -> None:
        self._seq += 1
        self._stream.write(json.dumps({"seq": self._seq, "kind": kind, **values}).encode() + b"\n")
        self._stream.flush()


def save(folder: Path, step: int, tokens: int, *, has_state: bool = True) -> None:
    partial = FOLDER / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    (partial / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    (partial / "adapter_model.safetensors").write_text(f"weights of step {step}")
    if has_state:
        (partial / "state.safetensors").write_text(f"state of step {step}")
        (partial / "state.json").write_text(json.dumps({"step": step, "tokens": tokens}))
    folder.parent.mkdir(exist_ok=True)
    if not folder.exists():
        partial.rename(folder)


def newest_state() -> tuple[int, int]:
    steps = [int(path.name.removeprefix("step-")) for path in (FOLDER / "checkpoints").glob("step-*")]
    if not steps:
        return 0, 0
    state = json.loads((FOLDER / "checkpoints" / f"step-{max(steps)}" / "state.json").read_text())
    return state["step"], state["tokens"]


def main() -> int:
    if not os.environ.get("SCRIPT_STUBBORN"):
        signal.signal(signal.SIGTERM, lambda *_: _wish.update(stop=True))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = json.loads((FOLDER / "spec.json").read_text())
    rows = [json.loads(line) for line in (FOLDER / "train.ndjson").read_text().splitlines()]
    tokens_of = [len(row["ids"]) for row in rows]
    total = len(rows) * spec.get("n_epochs", 1)
    events = Events()
    (FOLDER / "logs").mkdir(exist_ok=True)
    (FOLDER / "logs" / "events.out.tfevents.000001.hone").write_text("log")
    step, tokens = newest_state()
    events.write("message", level="info", message=f"Training goes on after step {step}" if step else "Training begins")
    while step < total and not _wish["stop"]:
        time.sleep(STEP_SECONDS)
        if step + 1 == FAIL_AT:
            events.write("failed", code="diverged", message="the loss is no longer a number")
            return 1
        if step + 1 == DIE_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        tokens += tokens_of[step % len(rows)]
        step += 1
        loss = random.Random(f"{spec['seed']}:{step}").random()
        events.write(
            "metrics", step=step, epoch=step / len(rows), train_loss=loss, train_token_accuracy=0.5,
            learning_rate=0.001, grad_norm=1.0, tokens_per_second=1000.0, trained_tokens=tokens, total_steps=total,
        )  # fmt: skip
        if step % CHECKPOINT_STEPS == 0 and step < total:
            save(FOLDER / "checkpoints" / f"step-{step}", step, tokens)
            events.write("checkpoint", step=step, path=f"checkpoints/step-{step}", interim=True, metrics={})
    if step < total:
        save(FOLDER / "checkpoints" / f"step-{step}", step, tokens)
        events.write("checkpoint", step=step, path=f"checkpoints/step-{step}", interim=True, metrics={})
        events.write("message", level="info", message="stopped")
        return 0
    save(FOLDER / "checkpoints" / f"step-{step}", step, tokens)
    metrics = {"train_loss": 0.5, "train_token_accuracy": 0.5}
    events.write("checkpoint", step=step, path=f"checkpoints/step-{step}", interim=False, metrics=metrics)
    save(FOLDER / "adapter", step, tokens, has_state=False)
    events.write("done", step=step, trained_tokens=tokens, best_step=step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
