"""What may be asked of the trainer."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_workers.training.errors import TrainingError
from inference_workers.training.spec import LoraSpec, TrainingSpec, load_spec

LEAST: dict[str, Any] = {
    "base_folder": "/models/m",
    "method": "supervised",
    "seed": 1,
    "n_epochs": 3,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "max_seq_length": 512,
}


def refusal(document: dict[str, Any]) -> TrainingError:
    with pytest.raises(TrainingError) as raised:
        TrainingSpec.from_dict(document)
    return raised.value


def test_a_spec_survives_the_way_to_the_trainer(tmp_path: Path) -> None:
    spec = TrainingSpec.from_dict(
        LEAST | {"lora": {"r": 8, "target_modules": ["q_proj"]}, "early_stopping": {"patience": 2}, "eval_every": None}
    )
    assert spec.lora == LoraSpec(r=8, target_modules=["q_proj"])
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    assert load_spec(tmp_path / "spec.json") == spec


def test_a_whole_number_is_a_number() -> None:
    assert TrainingSpec.from_dict(LEAST | {"learning_rate": 1}).learning_rate == 1.0


@pytest.mark.parametrize("key", sorted(LEAST))
def test_what_decides_the_result_must_be_there(key: str) -> None:
    error = refusal({name: value for name, value in LEAST.items() if name != key})
    assert (error.code, error.message) == ("spec_invalid", f"{key} is missing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rte": 1}, "learning_rte is not a known key"),
        ({"lora": {"rank": 1}}, "lora.rank is not a known key"),
        ({"early_stopping": {"patient": 1}}, "early_stopping.patient is not a known key"),
        ({"method": "magic"}, "method: 'magic' must be one of supervised, dpo"),
        ({"optimizer": "lion"}, "optimizer: 'lion' must be one of adamw, adam, sgd, adafactor"),
        ({"scheduler": "steps"}, "scheduler: 'steps' must be one of constant, linear, cosine"),
        ({"precision": "fp8"}, "precision: 'fp8' must be one of auto, fp32, bf16"),
        ({"device": "tpu"}, "device: 'tpu' must be one of auto, cpu, cuda"),
        ({"n_epochs": 0}, "n_epochs: 0 must be at least 1"),
        ({"n_epochs": 1.5}, "n_epochs: 1.5 must be a whole number"),
        ({"n_epochs": True}, "n_epochs: True must be a whole number"),
        ({"batch_size": "8"}, "batch_size: '8' must be a whole number"),
        ({"seed": -1}, "seed: -1 must be at least 0"),
        ({"learning_rate": 0}, "learning_rate: 0.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan must be a finite number"),
        ({"warmup_ratio": 1}, "warmup_ratio: 1.0 must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay: -0.1 must be at least 0"),
        ({"max_grad_norm": -1}, "max_grad_norm: -1.0 must be at least 0"),
        ({"max_seq_length": 1}, "max_seq_length: 1 must be at least 2"),
        ({"packing": 1}, "packing: 1 must be true or false"),
        ({"n_checkpoints": 0}, "n_checkpoints: 0 must be at least 1"),
        ({"eval_every": "no"}, "eval_every: 'no' must be a whole number or null"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience: 0 must be at least 1"),
        ({"early_stopping": 3}, "early_stopping: 3 must be an object or null"),
        ({"lora": 3}, "lora: 3 must be an object"),
        ({"lora": {"r": 0}}, "lora.r: 0 must be at least 1"),
        ({"lora": {"alpha": 0}}, "lora.alpha: 0.0 must be above 0"),
        ({"lora": {"dropout": 1}}, "lora.dropout: 1.0 must be at least 0 and below 1"),
        ({"lora": {"target_modules": []}}, "lora.target_modules: [] must be a list of at least one name"),
        ({"lora": {"target_modules": ".*"}}, "lora.target_modules: '.*' must be a list of names or \"all-linear\""),
        ({"lora": {"target_modules": [1]}}, "lora.target_modules: [1] must be text or a list of text"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(values: dict[str, Any], message: str) -> None:
    error = refusal(LEAST | values)
    assert error.code == "spec_invalid"
    assert error.message.startswith(message)


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, "lora.use_dora: vLLM cannot serve DoRA"),
        ({"modules_to_save": ["lm_head"]}, "lora.modules_to_save: vLLM cannot serve fully trained modules"),
        ({"bias": "all"}, "lora.bias: vLLM cannot serve trained biases"),
        ({"lora_bias": True}, "lora.lora_bias: vLLM cannot serve biases inside the adapter"),
        ({"rank_pattern": {"q_proj": 32}}, "lora.rank_pattern: vLLM cannot serve ranks that differ"),
        ({"init_lora_weights": "pissa"}, "lora.init_lora_weights: vLLM cannot serve initialisations"),
        ({"r": 513}, "lora.r: vLLM serves ranks up to 512"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lora.target_modules: an adapter on 'lm_head' is not served"),
        ({"target_modules": ["model.embed_tokens"]}, "lora.target_modules: an adapter on 'model.embed_tokens' is not"),
    ],
)
def test_what_could_not_be_served_is_not_trained(lora: dict[str, Any], reason: str) -> None:
    error = refusal(LEAST | {"lora": lora})
    assert error.code == "adapter_not_servable"
    assert error.message.startswith(reason)


def test_a_setting_of_peft_that_changes_nothing_is_let_pass() -> None:
    harmless = {"use_dora": False, "bias": "none", "modules_to_save": None, "init_lora_weights": True, "r": 2}
    assert TrainingSpec.from_dict(LEAST | {"lora": harmless}).lora == LoraSpec(r=2)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff"])
def test_a_file_that_is_no_spec_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(TrainingError, match=r"spec\.json") as raised:
        load_spec(tmp_path / "spec.json")
    assert raised.value.code == "spec_invalid"
