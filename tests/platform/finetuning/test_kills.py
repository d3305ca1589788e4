"""Trainer, agent and control worker killed at random while a job is trained: it finishes as if nothing had been.

A real agent, a real server, and the real trainer with a random model of two layers. What a control worker and the
sweeper do is done here, and interrupted here.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from catalog.models import BaseModel
from catalog.services import register_model
from fleet.claims import claim_lease
from fleet.handlers import control_kinds
from fleet.selectors import has_control_work
from fleet.services import create_worker_token, sweep_leases
from fleet.tasks import run_control_work
from tests.inference_workers.agent_process import agent_command, agent_environment
from tests.support.cast import MODEL, Cast
from tests.support.evaluations import evaluate_what_waits, evaluation_of, held_out
from tests.support.facts import change, let_back_off_pass, query_owner
from tests.support.jobs import create, retrieve, training_file, try_models
from tests.support.model import BATCH, CHATML, ONLINE, TRAINING, TURN_TOKENS, write_tokenizer
from tests.support.money import money
from tests.support.server import Server
from tests.support.waiting import wait_until
from tests.support.worker import Worker

ROOT = Path(__file__).parents[3]
STAND_IN = ROOT / "tests" / "support" / "stand_in_engine.py"
PYTHON = ROOT / ".venv-worker" / "bin" / "python"
ROWS, EPOCHS = 60, 8
STEPS = ROWS * EPOCHS
KILLS = 5
SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(2**32)
"""Printed with a failure: the same seed chooses the same victims in the same order."""

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]


class Node:
    """An agent that is started again whenever it has gone."""

    def __init__(self, url: str, folder: Path) -> None:
        self._folder, self._url = folder, url
        self._token = create_worker_token(name="node").token
        self.agent = self._start()

    def kill_agent(self) -> bool:
        """The trainer ends with it. False where none was at work."""
        was_training = self._trainer() is not None
        self.agent.kill()
        self.agent.wait()
        self.agent = self._start()
        return was_training

    def kill_trainer(self) -> bool:
        """False where none was at work."""
        trainer = self._trainer()
        if trainer is not None:
            trainer.kill()
        return trainer is not None

    def _trainer(self) -> psutil.Process | None:
        for child in psutil.Process(self.agent.pid).children(recursive=True):
            if child.is_running() and "inference_workers.training" in child.cmdline():
                return child
        return None

    def stop(self) -> None:
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait(15)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = agent_command(self._folder / "node.toml")
        environment = agent_environment(self._url, home=self._folder, token=self._token)
        with (self._folder / "agent.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The node's, with its configuration and a prepared model."""
    source, folder = tmp_path / "source", tmp_path / "node"
    source.mkdir()
    folder.mkdir()
    make_model = "from tests.inference_workers.training.checks import make_model; import sys; "
    make_model += f"make_model(sys.argv[1], vocab_size={256 + len(TURN_TOKENS)})"
    subprocess.run([PYTHON, "-c", make_model, source], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    write_tokenizer(source, CHATML, TURN_TOKENS)
    config = folder / "node.toml"
    config.write_text(
        f'[node]\nname = "n"\n[[models]]\nname = "{MODEL}"\nsource = "folder:{source}"\ndevice = "cpu"\n'
        f'command = ["{sys.executable}", "{STAND_IN}"]\n'
        f'[training]\ndevice = "cpu"\nthreads = 1\nlauncher = ["{PYTHON}"]\n'
    )
    prepare = [sys.executable, "-m", "inference_workers", "prepare", "--config", str(config)]
    subprocess.run(prepare, env=os.environ | {"HONE_HOME": str(folder)}, check=True)
    return folder


@pytest.fixture
def base(cast: Cast, folder: Path) -> BaseModel:
    """The same in the catalogue."""
    return register_model(directory=folder / "models" / MODEL, online=ONLINE, batch={"24h": BATCH}, training=TRAINING)


@pytest.fixture
def node(server: Server, base: BaseModel, folder: Path) -> Iterator[Node]:
    running = Node(server.url, folder)
    yield running
    running.stop()


class House:
    """What beat and control workers do all the time; the first worker of each kind of work is killed with it."""

    def __init__(self) -> None:
        self.unkilled = {kind for kind in control_kinds() if kind.startswith("finetuning_")}

    def keep(self) -> None:
        """One round."""
        sweep_leases()
        let_back_off_pass()
        while has_control_work():
            self._kill_some()
            run_control_work()

    def _kill_some(self) -> None:
        """Workers that took something, and were never heard of again; that is noticed sooner than usual."""
        for kind in sorted(self.unkilled):
            self.unkilled -= {lease.kind for lease in [claim_lease(kinds=[kind], models=[""], node_id=None)] if lease}
        change("UPDATE fleet_lease SET leased_until = now() WHERE state = 'leased' AND node_id IS NULL")
        sweep_leases()
        let_back_off_pass()

    def until(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Keep it until something is so."""

        def is_so() -> bool:
            self.keep()
            return condition()

        wait_until(is_so, seconds=seconds)


def curve(job: Any) -> dict[tuple[int, str], float]:
    """What was reported of each step."""
    names = ("train_loss", "valid_loss", "grad_norm", "learning_rate", "trained_tokens")
    rows = query_owner(
        f"SELECT step, {', '.join(names)} FROM finetuning_metricpoint WHERE job_id = %s",
        job["id"].removeprefix("ftjob-"),
    )
    return {
        (step, name): value
        for step, *values in rows
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


def has_steps(job: Any, wanted: int) -> bool:
    return len({step for step, _ in curve(job)}) >= wanted


def has_ended(cast: Cast, job: Any) -> bool:
    return retrieve(cast.alice, job)["status"] in ("succeeded", "failed", "cancelled")


def start(cast: Cast, files: dict[str, str]) -> Any:
    settings = {"n_epochs": EPOCHS, "batch_size": 1}
    method = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    return create(cast.alice, method=method, **files)


def finish(house: House, cast: Cast, job: Any) -> Any:
    house.until(partial(has_steps, job, STEPS), seconds=120)
    trial = Worker(name="trial")
    house.until(lambda: try_models(trial) + evaluate_what_waits(trial) >= 0 and has_ended(cast, job), seconds=60)
    return retrieve(cast.alice, job)


def test_a_job_survives_kills_at_random_moments_and_is_charged_once(
    cast: Cast, node: Node, folder: Path, settings: Any
) -> None:
    settings.TRAINING_CHECKPOINT_SECONDS = 1
    chance = random.Random(SEED)
    house = House()
    files = {"training_file": training_file(cast.alice, ROWS), "validation_file": held_out(cast.alice)}
    job = start(cast, files)
    kills = [node.kill_trainer, node.kill_agent] * (KILLS // 2) + [node.kill_trainer]
    chance.shuffle(kills)
    for number, kill in enumerate(kills, start=1):
        wanted = number * STEPS // (KILLS + 2) - chance.randrange(20)
        house.until(partial(has_steps, job, wanted), seconds=120)
        assert kill(), (SEED, number)
    done = finish(house, cast, job)
    assert done["status"] == "succeeded", (SEED, done["error"], (folder / "agent.log").read_text()[-3_000:])
    assert done["trained_tokens"] == done["progress"]["total_tokens"]
    assert money(cast.alice)[1:] == (0, done["trained_tokens"] * TRAINING.input_nanos)
    assert evaluation_of(cast.alice, job)["status"] == "succeeded"
    assert house.unkilled == set()
    undisturbed = start(cast, files)
    assert finish(house, cast, undisturbed)["status"] == "succeeded"
    assert {step for step, name in curve(job) if name == "train_loss"} == set(range(1, STEPS + 1))
    assert curve(job) == pytest.approx(curve(undisturbed), rel=1e-6), SEED
