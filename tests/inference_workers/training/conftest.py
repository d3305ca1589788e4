"""Trainers in the worker's environment, a random model for them, and run folders."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.inference_workers.training.rows import labelled_rows, write_rows
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-worker" / "bin" / "python"


class Workshop:
    """See :mod:`.workshop`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def check(self, name: str, **arguments: Any) -> Any:
        """What a function of :mod:`.checks` returns."""
        return self.ask(check=name, arguments=arguments)["result"]


@dataclass(frozen=True)
class Trainer:
    """A process at work on a folder."""

    workshop: Workshop
    pid: int

    def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        status: int = self.workshop.ask(wait=self.pid)["status"]
        return status

    def kill(self, number: int = signal.SIGKILL) -> int:
        os.kill(self.pid, number)
        return self.wait()


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and what is in it."""

    workshop: Workshop
    path: Path

    def start(self, **environment: str) -> Trainer:
        return Trainer(self.workshop, self.workshop.ask(run=str(self.path), environment=environment)["pid"])

    def train(self) -> list[dict[str, Any]]:
        """Run to the end; the events."""
        status = self.start().wait()
        assert status == 0, (self.path / "trainer.log").read_text()
        return self.events()

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Whole lines so far."""
        path = self.path / "events.ndjson"
        text = path.read_text() if path.exists() else ""
        events = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [event for event in events if kind in (None, event["kind"])]

    def curve(self, *names: str) -> dict[int, list[float]]:
        """Metrics by step, by default all that do not depend on the clock; what came last counts."""
        return {
            event["step"]: [event[name] for name in names]
            if names
            else [value for name, value in event.items() if name not in ("seq", "kind", "tokens_per_second")]
            for event in self.events("metrics")
        }

    def until(self, count: int, kind: str = "metrics") -> None:
        """Wait for so many events of a kind."""
        wait_until(lambda: len(self.events(kind)) >= count, seconds=60)

    def adapter(self, folder: str = "adapter") -> bytes:
        return (self.path / folder / "adapter_model.safetensors").read_bytes()

    def update_spec(self, **values: Any) -> None:
        path = self.path / "spec.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))


class MakeRun:
    """``make_run(n_epochs=1)``: a new folder with a made-up task, and a spec with those values."""

    def __init__(self, workshop: Workshop, base: Path, parent: Path) -> None:
        self._workshop, self._base, self._parent = workshop, base, parent

    def __call__(self, *, train: list[dict[str, Any]] | None = None, validation: int = 24, **spec: Any) -> RunFolder:
        folder = self._parent / f"run-{len(list(self._parent.iterdir()))}"
        folder.mkdir()
        write_rows(folder / "train.ndjson", labelled_rows(64, seed=1) if train is None else train)
        if validation:
            write_rows(folder / "validation.ndjson", labelled_rows(validation, seed=2))
        values = {
            "base_folder": str(self._base),
            "method": "supervised",
            "seed": 7,
            "n_epochs": 2,
            "batch_size": 8,
            "learning_rate": 0.02,
            "max_seq_length": 64,
            "lora": {"r": 4, "alpha": 8},
            "device": "cpu",
        }
        (folder / "spec.json").write_text(json.dumps(values | spec))
        return RunFolder(self._workshop, folder)


@pytest.fixture(scope="session")
def workshop() -> Iterator[Workshop]:
    if not PYTHON.exists():
        pytest.skip("the worker's environment is not installed")
    command = [str(PYTHON), "-m", "tests.inference_workers.training.workshop"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Workshop(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="session")
def base(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers."""
    folder = tmp_path_factory.mktemp("base")
    workshop.check("make_model", folder=str(folder))
    return folder


@pytest.fixture
def make_run(workshop: Workshop, base: Path, tmp_path: Path) -> MakeRun:
    return MakeRun(workshop, base, tmp_path)
