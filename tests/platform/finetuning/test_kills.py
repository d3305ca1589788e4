"""Trainer, agent and control worker killed at random while a job is trained: it finishes as if nothing had been.

A real agent, a real server, and a trainer that keeps the trainer's contract in milliseconds a step. What a control
worker and the sweeper do is done here, and interrupted here.
"""

import contextlib
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
from fleet.claims import claim_lease
from fleet.handlers import control_kinds
from fleet.selectors import has_control_work
from fleet.services import create_worker_token, sweep_leases
from fleet.tasks import run_control_work
from tests.support.adapter_files import adapter_contents
from tests.support.cast import MODEL, Cast
from tests.support.evaluations import evaluate_what_waits, evaluation_of, held_out
from tests.support.facts import change, let_back_off_pass, query_owner
from tests.support.jobs import create, retrieve, training_file, try_models
from tests.support.model import TRAINING
from tests.support.money import money
from tests.support.server import Server
from tests.support.waiting import wait_until
from tests.support.worker import Worker

pytestmark = pytest.mark.chaos

TRAINER = Path(__file__).parents[2] / "support" / "scripted_trainer.py"
STAND_IN = Path(__file__).parents[2] / "support" / "stand_in_engine.py"
ROWS = 60
SEED = int(os.environ.get("HONE_KILL_SEED", "0")) or random.SystemRandom().randrange(2**32)
"""Printed with a failure: the same seed chooses the same victims in the same order."""


class Node:
    """An agent that is started again whenever it has gone."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._folder, self._server = folder, server
        self._token = create_worker_token(name="node").token
        (folder / "node.toml").write_text(
            f'[node]\nname = "n"\n[[models]]\nname = "{MODEL}"\nsource = "folder:/nowhere"\ndevice = "cpu"\n'
            f'command = ["{sys.executable}", "{STAND_IN}"]\n'
            f'[training]\ndevice = "cpu"\nlauncher = ["{sys.executable}", "{TRAINER}"]\n'
            "[training.environment]\nSCRIPT_STEP_MS = 15\nSCRIPT_CHECKPOINT_STEPS = 7\n"
        )
        self.agent = self._start()

    def kill_agent(self) -> None:
        self.agent.kill()
        self.agent.wait()
        self.agent = self._start()

    def kill_trainer(self) -> None:
        for child in psutil.Process(self.agent.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("scripted_trainer" in part for part in child.cmdline()):
                    child.kill()

    def stop(self) -> None:
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait(15)

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "HONE_HOME": str(self._folder),
            "HONE_CONTROL_PLANE_URL": self._server.url,
            "HONE_WORKER_TOKEN": self._token,
            "HONE_BROKER_URL": "",
            "SCRIPT_ADAPTER": str(self._folder / "adapter"),
        }
        command = [sys.executable, "-m", "inference_workers", "agent", "--config", str(self._folder / "node.toml")]
        with (self._folder / "agent.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


@pytest.fixture
def node(server: Server, base: BaseModel, tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "node"
    (folder / "adapter").mkdir(parents=True)
    for name, content in adapter_contents().items():
        (folder / "adapter" / name).write_bytes(content)
    prepared = folder / "models" / MODEL
    prepared.mkdir(parents=True)
    (prepared / "hone-model.json").write_bytes((tmp_path / "model" / "hone-model.json").read_bytes())
    running = Node(server, folder)
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


def points(job: Any) -> dict[int, tuple[Any, ...]]:
    rows = query_owner(
        "SELECT step, train_loss, trained_tokens FROM finetuning_metricpoint WHERE job_id = %s ORDER BY step",
        job["id"].removeprefix("ftjob-"),
    )
    return {row[0]: row[1:] for row in rows}


def has_steps(job: Any, wanted: int) -> bool:
    return len(points(job)) >= wanted


def has_ended(cast: Cast, job: Any) -> bool:
    return retrieve(cast.alice, job)["status"] in ("succeeded", "failed", "cancelled")


def test_a_job_survives_kills_at_random_moments_and_is_charged_once(cast: Cast, node: Node, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    house = House()
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 1}}}
    files = {"training_file": training_file(cast.alice, ROWS), "validation_file": held_out(cast.alice)}
    job = create(cast.alice, method=method, **files)
    kills = [node.kill_trainer, node.kill_agent] * 2 + [node.kill_trainer]
    chance.shuffle(kills)
    for number, kill in enumerate(kills, start=1):
        wanted = number * ROWS // 6 - chance.randrange(3)
        house.until(partial(has_steps, job, wanted), seconds=90)
        kill()
    house.until(partial(has_steps, job, ROWS), seconds=90)
    trial = Worker(name="trial")
    house.until(lambda: try_models(trial) + evaluate_what_waits(trial) >= 0 and has_ended(cast, job), seconds=60)
    done = retrieve(cast.alice, job)
    assert done["status"] == "succeeded", (SEED, done["error"], (tmp_path / "node" / "agent.log").read_text()[-3_000:])
    losses = {step: random.Random(f"{job['seed']}:{step}").random() for step in range(1, ROWS + 1)}
    assert {step: point[0] for step, point in points(job).items()} == losses
    assert done["trained_tokens"] == done["progress"]["total_tokens"]
    assert money(cast.alice)[1:] == (0, done["trained_tokens"] * TRAINING.input_nanos)
    assert evaluation_of(cast.alice, job)["status"] == "succeeded"
    assert house.unkilled == set()
