"""What ``auto`` becomes, and what the trainer is told."""

from dataclasses import asdict
from typing import Any

import pytest

from finetuning.hyperparameters import MAX_RANK, OPTIMIZERS, PRECISIONS, SCHEDULERS, Choices, Lora, resolve
from finetuning.models import FineTuningJob
from inference_workers.training import spec
from inference_workers.training.spec import TrainingSpec

SUPERVISED, DPO = FineTuningJob.Method.SUPERVISED.value, FineTuningJob.Method.DPO.value


def choices(rows: int = 1_000, **changes: Any) -> Choices:
    return Choices(**{"method": SUPERVISED, "context_length": 2_048, "rows": rows, **changes})


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size"),
    [(1, 25, 1), (10, 25, 4), (20, 15, 4), (99, 4, 4), (600, 3, 8), (2_000, 3, 16), (20_000, 1, 32), (10**6, 1, 32)],
)
def test_auto_follows_from_the_number_of_rows(rows: int, epochs: int, batch_size: int) -> None:
    found = resolve({"n_epochs": "auto"}, choices(rows))
    assert (found.n_epochs, found.batch_size) == (epochs, batch_size)
    assert resolve({}, choices(rows)) == found


def test_a_batch_is_no_larger_than_the_data() -> None:
    assert resolve({"batch_size": 64}, choices(10)).batch_size == 10


def test_the_multiplier_is_of_the_usual_rate_and_a_rate_is_itself() -> None:
    assert resolve({"learning_rate_multiplier": 2}, choices()).learning_rate == 4e-4
    assert resolve({"learning_rate_multiplier": 2}, choices(method=DPO)).learning_rate == 1e-4
    recipe = {"learning_rate": 1e-3}
    assert resolve({"learning_rate_multiplier": 0.5}, choices(recipe=recipe)).learning_rate == 5e-4
    assert resolve({"learning_rate_multiplier": 0.5, "learning_rate": 0.1}, choices()).learning_rate == 0.1


def test_the_customers_values_come_before_the_recipes_and_auto_does_not() -> None:
    recipe = {"n_epochs": 7, "scheduler": "cosine", "packing": False}
    found = resolve({"n_epochs": "auto", "scheduler": "constant"}, choices(recipe=recipe))
    assert (found.n_epochs, found.scheduler, found.packing) == (7, "constant", False)


def test_length_is_within_the_models_context() -> None:
    assert resolve({}, choices()).max_seq_length == 2_048
    assert resolve({"max_seq_length": 10_000}, choices()).max_seq_length == 2_048
    assert resolve({"max_seq_length": 100}, choices()).max_seq_length == 100
    assert resolve({}, choices(context_length=100_000)).max_seq_length == 4_096


def test_the_shape_of_an_adapter_that_is_trained_on_stays() -> None:
    lora = Lora(r=4, alpha=8.0, dropout=0.0, target_modules=["q_proj"])
    assert resolve({}, choices(lora=lora)).lora == lora


@pytest.mark.parametrize("method", [SUPERVISED, DPO])
def test_the_trainer_reads_what_it_is_told(method: str) -> None:
    asked = {
        "n_epochs": 2, "early_stopping": {"patience": 2}, "optimizer": "sgd", "scheduler": "cosine", "beta": 0.5,
        "lora": {"r": 8, "target_modules": ["q_proj"]}, "n_checkpoints": 4,
    }  # fmt: skip
    found = resolve(asked, choices(method=method))
    told = found.to_spec(method=method, seed=3, rows=1_000)
    read = TrainingSpec.from_dict({**told, "base_folder": "/models/little", "device": "cpu"})
    ours = {
        name: value for name, value in asdict(found).items() if name not in ("learning_rate_multiplier", "train_on")
    }
    assert read.to_dict() | ours == read.to_dict()
    assert (read.method, read.seed, read.eval_every, read.checkpoint_seconds) == (method, 3, 12, 120)


def test_what_may_be_asked_for_is_what_the_trainer_has() -> None:
    assert set(OPTIMIZERS) == set(spec.OPTIMIZERS)
    assert set(SCHEDULERS) == set(spec.SCHEDULERS)
    assert set(PRECISIONS) == set(spec.PRECISIONS)
    assert MAX_RANK <= spec.HIGHEST_RANK
