"""Trainings on a node: the agent as a process, with a trainer that only writes what a trainer writes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from inference_workers.processes import process_stat
from inference_workers.protocol import LeaseAction
from tests.inference_workers.agent_process import AgentProcess, end_all, launch, pid_from
from tests.inference_workers.conftest import MODEL, stand_in_command
from tests.inference_workers.test_processes import gone
from tests.inference_workers.training_plane import REVISION, TrainingPlane

StartAgent = Callable[..., Awaitable[AgentProcess]]
TRAINER = Path(__file__).parents[1] / "support" / "scripted_trainer.py"


@pytest.fixture
async def control_plane() -> AsyncIterator[TrainingPlane]:
    fake = TrainingPlane()
    await fake.start()
    yield fake
    await fake.stop()
    assert fake.violations == []


@pytest.fixture
async def start_agent(control_plane: TrainingPlane, tmp_path: Path) -> AsyncIterator[StartAgent]:
    processes: list[AgentProcess] = []
    model = tmp_path / "home" / "models" / MODEL
    model.mkdir(parents=True)
    (model / "hone-model.json").write_text(json.dumps({"revision": REVISION, "context_length": 100}))

    async def start(*, stop_seconds: int = 5, threads: int = 2, **script: Any) -> AgentProcess:
        config = tmp_path / "node.toml"
        script_lines = "".join(f"SCRIPT_{name.upper()} = {value}\n" for name, value in script.items())
        config.write_text(
            f'[node]\nname = "n"\n[[models]]\nname = "{MODEL}"\nsource = "folder:/nowhere"\ndevice = "cpu"\n'
            f"command = {json.dumps(stand_in_command())}\n"
            f'[training]\ndevice = "cpu"\nthreads = {threads}\nstop_seconds = {stop_seconds}\n'
            f"launcher = {json.dumps([sys.executable, str(TRAINER)])}\n[training.environment]\n{script_lines}"
        )
        process = await launch(control_plane.url, home=tmp_path / "home", config=config)
        processes.append(process)
        return process

    yield start
    await end_all(processes)


async def trainer_pid(agent: AgentProcess) -> int:
    return await pid_from(agent, "trainer_started")


def folders(tmp_path: Path) -> list[str]:
    """What is left of trainings on the machine."""
    run_folder = tmp_path / "home" / "worker" / "n"
    return [path.name for path in [*run_folder.glob("training/*"), *run_folder.glob("training.*")]]


async def test_a_training_is_run_to_its_end_and_leaves_nothing(
    control_plane: TrainingPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    job = control_plane.add_job(MODEL, rows=10)
    await start_agent()
    await control_plane.until(lambda: job.state == "completed")
    assert job.steps == list(range(1, 11))
    assert job.events[-1]["kind"] == "done"
    assert job.events[-1]["trained_tokens"] == 100
    assert job.artifacts["adapter/adapter_model.safetensors"] == b"weights of step 10"
    assert job.artifacts["logs/000001.events.out.tfevents.000001.hone"] == b"log"
    assert job.checkpoints == [4, 8, 10]
    reports = control_plane.reports
    await control_plane.until(lambda: reports[-1]["models"][0]["training_tokens_per_second"] == 1000.0)
    await control_plane.until(lambda: reports[-1]["leases"] == [])
    assert folders(tmp_path) == []


async def test_trainings_run_while_the_engine_does_not(control_plane: TrainingPlane, start_agent: StartAgent) -> None:
    job = control_plane.add_job(MODEL)
    await start_agent()
    await control_plane.until(lambda: any(report["leases"] for report in control_plane.reports))
    (first,) = next(report for report in control_plane.reports if report["leases"])["leases"]
    assert first["id"] == job.id
    assert control_plane.reports[0]["models"][0] | {"trains": True} == control_plane.reports[0]["models"][0]


async def test_one_training_at_a_time(control_plane: TrainingPlane, start_agent: StartAgent) -> None:
    jobs = [control_plane.add_job(MODEL, rows=5) for _ in range(3)]
    await start_agent()
    await control_plane.until(lambda: all(job.state == "completed" for job in jobs))
    assert max(len(report["leases"]) for report in control_plane.reports) == 1


async def test_a_pause_saves_a_checkpoint_and_the_training_goes_on_from_it(
    control_plane: TrainingPlane, start_agent: StartAgent
) -> None:
    job = control_plane.add_job(MODEL, rows=40)
    await start_agent(checkpoint_steps=100)
    await control_plane.until(lambda: len(job.steps) >= 5)
    job.wish = LeaseAction.PAUSE
    await control_plane.until(lambda: job.state == "paused")
    assert [failure["code"] for failure in job.failures] == ["paused"]
    (step,) = job.checkpoints
    assert job.steps == list(range(1, step + 1))
    job.wish, job.state = LeaseAction.CONTINUE, "queued"
    await control_plane.until(lambda: job.state == "completed")
    assert [event["step"] for event in job.events if event["kind"] == "metrics"] == list(range(1, 41))
    assert job.events[-1]["trained_tokens"] == 400


async def test_a_cancelled_training_ends_within_seconds(control_plane: TrainingPlane, start_agent: StartAgent) -> None:
    job = control_plane.add_job(MODEL, rows=10_000)
    agent = await start_agent(stubborn=1)
    pid = await trainer_pid(agent)
    await control_plane.until(lambda: len(job.steps) >= 2)
    job.state = "cancelled"
    await gone(pid, seconds=4)
    assert job.failures == []


async def test_a_killed_trainer_is_reported_and_the_next_claim_repeats_from_the_last_checkpoint(
    control_plane: TrainingPlane, start_agent: StartAgent
) -> None:
    job = control_plane.add_job(MODEL, rows=30)
    agent = await start_agent(checkpoint_steps=6)
    pid = await trainer_pid(agent)
    await control_plane.until(lambda: len(job.checkpoints) == 2)
    os.kill(pid, signal.SIGKILL)
    await control_plane.until(lambda: job.state == "completed")
    assert [(failure["code"], failure["retryable"]) for failure in job.failures] == [("trainer_died", True)]
    assert job.epoch == 2
    assert job.steps == list(range(1, 31))
    assert {len(losses) for losses in job.losses.values()} == {1}


async def test_a_killed_agents_trainer_ends_and_the_next_agent_goes_on(
    control_plane: TrainingPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    job = control_plane.add_job(MODEL, rows=30)
    agent = await start_agent(checkpoint_steps=6, stubborn=1)
    pid = await trainer_pid(agent)
    await control_plane.until(lambda: len(job.checkpoints) == 2)
    agent.kill()
    await agent.communicate()
    assert folders(tmp_path) != []
    job.state = "queued"  # the sweeper's part
    await start_agent(checkpoint_steps=6)
    await control_plane.until(lambda: job.state == "completed")
    assert process_stat(pid) is None
    assert job.steps == list(range(1, 31))
    assert {len(losses) for losses in job.losses.values()} == {1}
    await control_plane.until(lambda: folders(tmp_path) == [])


async def test_sigterm_saves_gives_back_and_leaves_nothing(
    control_plane: TrainingPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    job = control_plane.add_job(MODEL, rows=1_000)
    agent = await start_agent(checkpoint_steps=1_000)
    pid = await trainer_pid(agent)
    await control_plane.until(lambda: len(job.steps) >= 3)
    agent.terminate()
    async with asyncio.timeout(8):
        await agent.communicate()
    assert agent.returncode == 0
    assert [(failure["code"], failure["retryable"]) for failure in job.failures] == [("node_stopped", True)]
    assert job.checkpoints == [job.steps[-1]]
    assert process_stat(pid) is None
    assert folders(tmp_path) == []


async def test_a_trainer_goes_on_while_the_control_plane_is_away(
    control_plane: TrainingPlane, start_agent: StartAgent
) -> None:
    job = control_plane.add_job(MODEL, rows=60)
    await start_agent(checkpoint_steps=10)
    await control_plane.until(lambda: len(job.steps) >= 3)
    control_plane.down = True
    refused = len(control_plane.calls)
    await control_plane.until(lambda: len(control_plane.calls) >= refused + 10)
    control_plane.down = False
    await control_plane.until(lambda: job.state == "completed")
    assert job.epoch == 1
    assert [event["step"] for event in job.events if event["kind"] == "metrics"] == list(range(1, 61))


async def test_a_training_that_cannot_go_on_fails_for_good(
    control_plane: TrainingPlane, start_agent: StartAgent
) -> None:
    job = control_plane.add_job(MODEL)
    await start_agent(fail_at=3)
    await control_plane.until(lambda: job.state == "failed")
    assert job.failures == [{"code": "diverged", "message": "the loss is no longer a number", "retryable": False}]
    assert job.steps == [1, 2]


async def test_another_revision_of_the_model_is_not_trained_on(
    control_plane: TrainingPlane, start_agent: StartAgent, tmp_path: Path
) -> None:
    (tmp_path / "home" / "models" / MODEL / "hone-model.json").write_text(json.dumps({"revision": "0" * 64}))
    job = control_plane.add_job(MODEL)
    await start_agent()
    await control_plane.until(lambda: job.failures != [])
    assert job.failures[0]["code"] == "worker_error"
    assert "revision 000000000000" in job.failures[0]["message"]
    assert job.events == []


async def test_lost_answers_repeat_nothing(control_plane: TrainingPlane, start_agent: StartAgent) -> None:
    job = control_plane.add_job(MODEL, rows=20)
    control_plane.drop_answers.extend(["events", "train.ndjson", "adapter_model.safetensors", "events", "state.json"])
    await start_agent()
    await control_plane.until(lambda: job.state == "completed")
    assert [event["step"] for event in job.events if event["kind"] == "metrics"] == list(range(1, 21))
    assert not control_plane.drop_answers
