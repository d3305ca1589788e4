"""Kills at any moment: the run goes on, and its numbers are those of a run that nothing disturbed."""

import json
import random
import shutil
import signal
from typing import Any

import pytest

from tests.inference_workers.training.conftest import MakeRun, RunFolder
from tests.support.waiting import wait_until

SETTINGS: dict[str, Any] = {
    "n_epochs": 3,
    "eval_every": 3,
    "checkpoint_seconds": 0.000001,  # an interim checkpoint after each step
    "lora": {"r": 4, "alpha": 8, "dropout": 0.2},
    "scheduler": "cosine",
    "warmup_ratio": 0.2,
    "early_stopping": {"patience": 3},
}


@pytest.fixture
def undisturbed(make_run: MakeRun) -> RunFolder:
    run = make_run(**SETTINGS)
    run.train()
    return run


def assert_same(run: RunFolder, undisturbed: RunFolder) -> None:
    """To the last bit on the same processor; every number between 1 and the last is there."""
    assert run.curve() == undisturbed.curve()
    assert run.adapter() == undisturbed.adapter()
    events = run.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["kind"] for event in events].count("done") == 1
    assert [event["step"] for event in events if event["kind"] == "checkpoint" and not event["interim"]] == [8, 16, 24]
    reported: dict[int, list[Any]] = {}
    for event in run.events("metrics"):  # a step that is reported again says the same
        values = [value for name, value in event.items() if name not in ("seq", "tokens_per_second")]
        assert reported.setdefault(event["step"], values) == values


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_kills_at_random_moments_change_nothing(make_run: MakeRun, optimizer: str) -> None:
    whole = make_run(**SETTINGS | {"optimizer": optimizer})
    whole.train()
    run = make_run(**SETTINGS | {"optimizer": optimizer})
    moments = random.Random(5)
    for _ in range(5):
        seen = len(run.events())
        trainer = run.start()
        wanted = seen + moments.randrange(1, 9)
        wait_until(lambda wanted=wanted: len(run.events()) >= wanted, seconds=60)  # type: ignore[misc]  # bound now
        assert trainer.kill() == -signal.SIGKILL
        assert run.events("done") == []
    run.train()
    assert_same(run, whole)


@pytest.mark.parametrize("step", [1, 8])
def test_a_kill_while_a_checkpoint_is_written(make_run: MakeRun, undisturbed: RunFolder, step: int) -> None:
    run = make_run(**SETTINGS)
    trainer = run.start()
    partial = run.path / "checkpoints" / f".step-{step}.partial"
    whole = run.path / "checkpoints" / f"step-{step}"
    wait_until(lambda: partial.exists() or whole.exists(), seconds=60)
    trainer.kill()
    run.train()
    assert not list((run.path / "checkpoints").glob(".*"))
    assert_same(run, undisturbed)


def test_a_kill_between_a_checkpoint_and_its_event(make_run: MakeRun, undisturbed: RunFolder) -> None:
    run = make_run(**SETTINGS)
    run.train()
    shutil.rmtree(run.path / "adapter")
    for step in (17, 18, 19, 20, 21, 22, 23, 24):
        shutil.rmtree(run.path / "checkpoints" / f"step-{step}", ignore_errors=True)
    events = run.events()
    before = next(index for index, event in enumerate(events) if event["kind"] == "metrics" and event["step"] == 16)
    lines = [json.dumps(event) + "\n" for event in events[:before]]
    (run.path / "events.ndjson").write_text("".join(lines) + '{"seq": 99, "kind": "metr')
    run.train()
    assert [event["step"] for event in run.events("checkpoint")].count(16) == 1
    assert_same(run, undisturbed)


def test_a_checkpoint_that_cannot_be_read_is_passed_over(make_run: MakeRun, undisturbed: RunFolder) -> None:
    run = make_run(**SETTINGS)
    trainer = run.start()
    run.until(10)
    trainer.kill()
    steps = sorted(int(path.name[5:]) for path in (run.path / "checkpoints").glob("step-*"))
    state = run.path / "checkpoints" / f"step-{steps[-1]}" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-3])
    run.train()
    (warning,) = [event for event in run.events("message") if event["level"] == "warn"]
    assert warning["message"].startswith(f"Checkpoint step-{steps[-1]} cannot be read (")
    assert_same(run, undisturbed)


def test_a_wish_to_stop_is_met_and_the_run_goes_on(make_run: MakeRun, undisturbed: RunFolder) -> None:
    run = make_run(**SETTINGS | {"checkpoint_seconds": 600.0})
    trainer = run.start()
    run.until(10)
    assert trainer.kill(signal.SIGTERM) == 0
    *_, checkpoint, last = run.events()
    assert last == {"seq": last["seq"], "kind": "message", "level": "info", "message": "stopped"}
    step = run.events("metrics")[-1]["step"]
    assert (checkpoint["kind"], checkpoint["step"], checkpoint["interim"]) == ("checkpoint", step, True)
    assert (run.path / checkpoint["path"] / "state.json").exists()
    run.train()
    assert_same(run, undisturbed)


def test_a_stopped_run_goes_on_in_another_folder(make_run: MakeRun, undisturbed: RunFolder) -> None:
    """As on another node: inputs and the newest checkpoint are all there is."""
    run, elsewhere = make_run(**SETTINGS), make_run(**SETTINGS | {"checkpoint_seconds": 600.0})
    trainer = run.start()
    run.until(10)
    trainer.kill(signal.SIGTERM)
    newest = run.events("checkpoint")[-1]
    shutil.copytree(run.path / newest["path"], elsewhere.path / newest["path"])
    elsewhere.train()
    curve = undisturbed.curve()
    assert elsewhere.curve() == {step: curve[step] for step in range(newest["step"] + 1, 25)}
    assert elsewhere.adapter() == undisturbed.adapter()


def test_a_wish_to_stop_before_the_first_step(make_run: MakeRun) -> None:
    run = make_run(**SETTINGS)
    trainer = run.start()
    wait_until((run.path / "events.ndjson").exists, seconds=60)
    assert trainer.kill(signal.SIGTERM) == 0
    assert run.events()[-1]["message"] == "stopped"


def test_old_interim_checkpoints_go_and_announced_ones_stay(undisturbed: RunFolder) -> None:
    announced = [event["step"] for event in undisturbed.events("checkpoint")]
    assert announced == list(range(1, 25))
    kept = sorted(int(path.name[5:]) for path in (undisturbed.path / "checkpoints").iterdir())
    assert kept == [8, 16, 22, 23, 24]
