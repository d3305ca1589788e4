"""The adapter: made, checked against what vLLM serves, kept in PEFT's format (safetensors, never pickle)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import TrainingError
from .spec import ALL_LINEAR, LoraSpec, check_peft_config

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
REFERENCE = "reference"
"""The name of the frozen copy that DPO compares with when training goes on from an adapter."""


def add_adapter(base: Any, lora: LoraSpec, *, name: str) -> Any:
    """A fresh adapter on the base model, which gives the base's own answers until it is trained."""
    _check_targets(base, lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    model = get_peft_model(base, config)
    config.base_model_name_or_path = name  # not the path on this machine, which PEFT has put there
    return model


def continue_adapter(base: Any, folder: Path, *, dropout: float, keep_reference: bool) -> Any:
    """An adapter from another run, to train on; with ``keep_reference`` a second, frozen copy of it."""
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        check_peft_config(document)
        config = LoraConfig.from_pretrained(folder, lora_dropout=dropout)
        model = PeftModel.from_pretrained(base, folder, config=config, is_trainable=True, use_safetensors=True)
        if keep_reference:
            model.load_adapter(folder, REFERENCE, is_trainable=False, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError("adapter_unreadable", f"the adapter to continue from cannot be used: {error}") from error
    return model


def save_adapter(model: Any, folder: Path) -> None:
    """Both files, into an existing folder. The same weights make the same bytes."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_weights(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    settings = model.peft_config["default"].to_dict() | {"inference_mode": True}
    text = json.dumps(settings, indent=2, sort_keys=True, default=sorted)  # PEFT keeps names in sets
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def load_weights(model: Any, folder: Path) -> None:
    """Set the adapter to what :func:`save_adapter` has written."""
    weights = load_file(folder / WEIGHTS)
    if weights.keys() != adapter_weights(model).keys():
        raise TrainingError("checkpoint_mismatch", f"{folder.name} holds another adapter than the run's settings make")
    set_peft_model_state_dict(model, weights)


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """By the names that PEFT and vLLM know."""
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return weights


def _check_targets(base: Any, lora: LoraSpec) -> None:
    if lora.target_modules == ALL_LINEAR:
        return
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    for wanted in lora.target_modules:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in linear):
            known = sorted({name.rsplit(".", 1)[-1] for name in linear} - {"lm_head"})
            raise TrainingError(
                "adapter_not_servable",
                f"lora.target_modules: this model has no linear layer {wanted!r}; it has {', '.join(known)}.",
            )
