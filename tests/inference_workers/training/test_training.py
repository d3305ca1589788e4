"""A run from its folder to its adapter."""

import json
import math
from itertools import pairwise
from typing import Any

import pytest

from tests.inference_workers.training.conftest import MakeRun, RunFolder, Workshop
from tests.inference_workers.training.rows import LABEL, labelled_rows, preference_rows, write_rows


def test_a_run_leaves_an_adapter_checkpoints_and_events(make_run: MakeRun) -> None:
    run = make_run(n_epochs=3, eval_every=5)
    events = run.train()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["step"] for event in run.events("metrics")] == list(range(1, 25))
    assert [(event["step"], event["path"], event["interim"]) for event in run.events("checkpoint")] == [
        (8, "checkpoints/step-8", False),
        (16, "checkpoints/step-16", False),
        (24, "checkpoints/step-24", False),
    ]
    tokens = sum(len(row["ids"]) for row in labelled_rows(64, seed=1))
    assert events[-1] == {
        "seq": len(events),
        "kind": "done",
        "step": 24,
        "trained_tokens": 3 * tokens,
        "best_step": 24,
    }
    last = events[-3]
    assert (last["step"], last["total_steps"], last["epoch"]) == (24, 24, 3.0)
    assert events[-2]["metrics"] == {
        name: value for name, value in last.items() if name not in ("seq", "kind", "step", "total_steps", "epoch")
    }
    assert last["trained_tokens"] == 3 * tokens
    assert [step for step, metrics in enumerate(run.events("metrics"), 1) if "valid_loss" in metrics] == [
        *(5, 8, 10, 15, 16, 20, 24)
    ]
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in (run.path / "adapter").iterdir()) == names
    assert sorted(path.name for path in (run.path / "checkpoints" / "step-8").iterdir()) == [
        *(*names, "state.json", "state.safetensors")
    ]
    assert run.adapter() == run.adapter("checkpoints/step-24")


def test_the_task_is_learnt(make_run: MakeRun) -> None:
    run = make_run(n_epochs=6)
    run.train()
    first, *_, last = run.events("metrics")
    assert first["train_loss"] > math.log(256) * 0.8
    assert last["valid_loss"] < 0.1
    assert last["valid_token_accuracy"] == last["valid_example_accuracy"] == 1.0


def test_reported_losses_are_those_of_the_saved_adapter(make_run: MakeRun, workshop: Workshop) -> None:
    """Computed anew with the plain libraries: base logits, the adapter merged by hand."""
    run = make_run(learning_rate=0.003)
    run.train()
    rows = labelled_rows(24, seed=2)

    def loss(adapter: str | None) -> float:
        found = workshop.check(
            "model_log_probs",
            base=json.loads((run.path / "spec.json").read_text())["base_folder"],
            adapter=adapter,
            rows=[row["ids"] for row in rows],
        )
        return -sum(sum(values[-2:]) for values in found) / (2 * len(rows))

    reported = {event["step"]: event["metrics"]["valid_loss"] for event in run.events("checkpoint")}
    assert loss(str(run.path / "checkpoints" / "step-8")) == pytest.approx(reported[8], abs=1e-4)
    assert loss(str(run.path / "adapter")) == pytest.approx(reported[16], abs=1e-4)
    assert loss(None) > reported[8] > reported[16]


def test_the_same_seed_gives_the_same_run(make_run: MakeRun) -> None:
    runs = [make_run(lora={"r": 4, "alpha": 8, "dropout": 0.2}) for _ in range(2)]
    other = make_run(lora={"r": 4, "alpha": 8, "dropout": 0.2}, seed=8)
    for run in (*runs, other):
        run.train()
    assert runs[0].curve() == runs[1].curve()
    assert runs[0].adapter() == runs[1].adapter()
    assert runs[0].curve() != other.curve()


@pytest.mark.parametrize(
    "change",
    [
        {"packing": False},
        {"gradient_accumulation": 3},
        {"packing": False, "gradient_accumulation": 8},
        {"gradient_checkpointing": True},
    ],
)
def test_how_a_step_is_computed_changes_no_result(make_run: MakeRun, change: dict[str, Any]) -> None:
    plain, other = make_run(), make_run(**change)
    plain.train()
    other.train()
    expected = plain.curve("train_loss", "grad_norm", "learning_rate")
    assert other.curve("train_loss", "grad_norm", "learning_rate") == {
        step: pytest.approx(values, rel=2e-3) for step, values in expected.items()
    }


def test_two_processes_share_each_step(make_run: MakeRun) -> None:
    alone, shared = make_run(n_epochs=1), make_run(n_epochs=1)
    alone.train()
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    pair = [shared.start(RANK=rank, LOCAL_RANK=rank, **place) for rank in ("0", "1")]
    assert [process.wait() for process in pair] == [0, 0], (shared.path / "trainer.log").read_text()
    names = ("train_loss", "train_token_accuracy", "grad_norm", "trained_tokens")
    expected = alone.curve(*names)
    assert shared.curve(*names) == {step: pytest.approx(values, rel=2e-3) for step, values in expected.items()}
    valid = [[event["metrics"]["valid_loss"] for event in run.events("checkpoint")] for run in (alone, shared)]
    assert valid[1] == pytest.approx(valid[0], rel=2e-3)
    assert [event["seq"] for event in shared.events()] == [event["seq"] for event in alone.events()]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "adafactor"])
def test_every_optimizer_lowers_the_loss(make_run: MakeRun, optimizer: str) -> None:
    run = make_run(optimizer=optimizer, learning_rate={"sgd": 0.5}.get(optimizer, 0.01), weight_decay=0.01)
    run.train()
    losses = [loss for (loss,) in run.curve("train_loss").values()]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ("constant", [0.0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.0, 0.25, 0.5, 0.75, *((12 - step) / 12 for step in range(12))]),
        ("cosine", [0.0, 0.25, 0.5, 0.75, *(0.5 + 0.5 * math.cos(math.pi * step / 12) for step in range(12))]),
        ("cosine_with_restarts", [0.0, 0.25, 0.5, 0.75, *(0.5 + 0.5 * math.cos(math.pi * s / 12) for s in range(12))]),
        ("inverse_sqrt", [0.0, 0.25, 0.5, 0.75, *(math.sqrt(4 / (4 + step)) for step in range(12))]),
    ],
)
def test_the_learning_rate_warms_up_and_follows_its_name(
    make_run: MakeRun, scheduler: str, expected: list[float]
) -> None:
    run = make_run(scheduler=scheduler, warmup_ratio=0.25, learning_rate=0.001)
    run.train()
    assert [1000 * rate for (rate,) in run.curve("learning_rate").values()] == pytest.approx(expected)


def test_gradients_are_clipped(make_run: MakeRun) -> None:
    """To a norm of nearly nothing, and SGD moves as little as with a learning rate of nearly nothing."""
    changes = ({"max_grad_norm": 1e-9}, {"max_grad_norm": 0, "learning_rate": 1e-9}, {"max_grad_norm": 0})
    clipped, still, free = (make_run(optimizer="sgd", n_epochs=1, validation=0, **change) for change in changes)
    for run in (clipped, still, free):
        run.train()
    expected = still.curve("train_loss", "grad_norm")
    assert clipped.curve("train_loss", "grad_norm") == {
        step: pytest.approx(values, rel=1e-4) for step, values in expected.items()
    }
    assert free.curve("train_loss")[8][0] < clipped.curve("train_loss")[8][0] - 0.1


def test_batches_grouped_by_length_hold_similar_rows(make_run: MakeRun) -> None:
    grouped, mixed = make_run(group_by_length=True, n_epochs=1), make_run(n_epochs=1)
    grouped.train()
    mixed.train()

    def spread(run: RunFolder) -> int:
        totals: list[int] = [0, *(event["trained_tokens"] for event in run.events("metrics"))]
        tokens = [after - before for before, after in pairwise(totals)]
        return max(tokens) - min(tokens)

    assert grouped.events()[-1]["trained_tokens"] == mixed.events()[-1]["trained_tokens"]
    assert spread(grouped) > 2 * spread(mixed)


def test_weights_count(make_run: MakeRun) -> None:
    """A label of weight 0 is as good as none."""
    rows = labelled_rows(16, seed=1)
    halved = [row | {"trained": [[start, start + 1]]} for row in rows for start in [row["trained"][0][0]]]
    zeroed = [
        row | {"trained": [[start, start + 1], [start + 1, end]], "weights": [2.0, 0.0]}
        for row in rows
        for start, end in row["trained"]
    ]
    by_span, by_weight = make_run(train=halved, validation=0), make_run(train=zeroed, validation=0)
    by_span.train()
    by_weight.train()
    expected = by_span.curve("train_loss", "train_token_accuracy", "train_example_accuracy", "grad_norm")
    assert by_weight.curve("train_loss", "train_token_accuracy", "train_example_accuracy", "grad_norm") == {
        step: pytest.approx(values, rel=1e-4) for step, values in expected.items()
    }


def test_checkpoints_are_spread_over_the_run(make_run: MakeRun) -> None:
    run = make_run(n_epochs=1, n_checkpoints=3, validation=0)
    run.train()
    assert [event["step"] for event in run.events("checkpoint")] == [3, 5, 8]
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["step-3", "step-5", "step-8"]


def test_a_run_without_gain_stops_early_and_keeps_the_best(make_run: MakeRun) -> None:
    """Labels of the training rows are at odds with those of the validation rows, so the loss there must rise."""
    wrong = [row | {"ids": [*row["ids"][:-2], LABEL + 9, row["ids"][-1]]} for row in labelled_rows(64, seed=1)]
    run = make_run(train=wrong, n_epochs=12, early_stopping={"patience": 2}, learning_rate=0.02)
    events = run.train()
    losses = [event["metrics"]["valid_loss"] for event in run.events("checkpoint")]
    steps = [event["step"] for event in run.events("checkpoint")]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12
    assert events[-1]["best_step"] == steps[best]
    assert events[-1]["step"] == steps[-1]
    assert events[-2]["message"] == (
        f"Stopped early at step {steps[-1]}: the validation loss was lowest at step {steps[best]}."
    )
    assert run.adapter() == run.adapter(f"checkpoints/step-{steps[best]}")
    assert run.adapter() != run.adapter(f"checkpoints/step-{steps[-1]}")


def test_preferences_are_learnt(make_run: MakeRun) -> None:
    run = make_run(method="dpo", train=preference_rows(192, seed=1), validation=0, n_epochs=2, beta=0.2)
    write_rows(run.path / "validation.ndjson", preference_rows(24, seed=2))
    run.train()
    first, *_, last = run.events("metrics")
    assert first["train_loss"] == pytest.approx(math.log(2), abs=1e-6)  # as it began
    assert first["train_reward_margin"] == 0
    assert last["valid_loss"] < 0.4
    assert last["valid_token_accuracy"] > 0.9
    assert last["valid_reward_margin"] > 1
    tokens = sum(2 * len(row["ids"]) for row in labelled_rows(192, seed=1))
    assert last["trained_tokens"] == 2 * tokens


def test_preference_losses_are_those_of_the_formula(make_run: MakeRun, workshop: Workshop) -> None:
    run = make_run(method="dpo", train=preference_rows(16, seed=1), validation=0, beta=0.3)
    pairs = preference_rows(8, seed=2)
    write_rows(run.path / "validation.ndjson", pairs)
    run.train()
    base = json.loads((run.path / "spec.json").read_text())["base_folder"]

    def sums(adapter: str | None) -> list[float]:
        rows = [pair["prompt"] + pair[side] for pair in pairs for side in ("chosen", "rejected")]
        return [sum(values[-2:]) for values in workshop.check("model_log_probs", base=base, adapter=adapter, rows=rows)]

    gains = [now - then for now, then in zip(sums(str(run.path / "adapter")), sums(None), strict=True)]
    margins = [0.3 * (gains[index] - gains[index + 1]) for index in range(0, 16, 2)]
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / 8
    last = run.events("checkpoint")[-1]["metrics"]
    assert last["valid_loss"] == pytest.approx(expected, abs=1e-4)
    assert last["valid_reward_margin"] == pytest.approx(sum(margins) / 8, abs=1e-4)


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_training_goes_on_from_an_adapter(make_run: MakeRun, method: str) -> None:
    first = make_run(n_epochs=6)
    first.train()
    rows = {"supervised": labelled_rows, "dpo": preference_rows}[method]
    second = make_run(method=method, train=rows(64, seed=3), validation=0, lora={"r": 16, "alpha": 32}, n_epochs=1)
    (first.path / "adapter").rename(second.path / "from")
    second.train()
    expected = {"supervised": first.events("metrics")[-1]["train_loss"], "dpo": math.log(2)}[method]
    assert second.events("metrics")[0]["train_loss"] == pytest.approx(expected, abs=0.2)
    config = json.loads((second.path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert second.events("message")[0] == {
        "seq": 1,
        "kind": "message",
        "level": "warn",
        "message": "The adapter that training goes on from keeps its own shape: r 4, alpha 8.",
    }
    assert second.adapter() != (second.path / "from" / "adapter_model.safetensors").read_bytes()


def test_half_precision_trains_an_adapter_in_full(make_run: MakeRun) -> None:
    run = make_run(precision="bf16", n_epochs=6)
    run.train()
    assert run.events("metrics")[-1]["valid_token_accuracy"] > 0.9
    header = run.adapter()[8:4000].decode("latin-1")
    assert '"F32"' in header
    assert '"BF16"' not in header


def test_a_finished_run_is_left_alone(make_run: MakeRun) -> None:
    run = make_run(n_epochs=1)
    events = run.train()
    assert run.train() == events


def test_tensorboard_finds_the_curve(make_run: MakeRun, workshop: Workshop) -> None:
    run = make_run(n_epochs=1)
    run.train()
    assert [path.name for path in (run.path / "logs").iterdir()] == ["events.out.tfevents.000001.hone"]
    found = workshop.check("tensorboard_scalars", folder=str(run.path / "logs"))
    assert found["train/loss"] == [
        [step, pytest.approx(loss, rel=1e-6)] for step, (loss,) in run.curve("train_loss").items()
    ]
    assert sorted(found) == [
        "run/grad_norm",
        "run/learning_rate",
        "run/tokens_per_second",
        "run/trained_tokens",
        "train/example_accuracy",
        "train/loss",
        "train/token_accuracy",
        "valid/example_accuracy",
        "valid/loss",
        "valid/token_accuracy",
    ]
