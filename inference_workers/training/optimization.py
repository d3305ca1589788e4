"""Optimisers and learning rates by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Adafactor, get_scheduler

from .spec import TrainingSpec


def make_optimizer(spec: TrainingSpec, parameters: list[torch.Tensor]) -> Any:
    """One of :data:`.spec.OPTIMIZERS` with the customary constants of its paper."""
    rate, decay = spec.learning_rate, spec.weight_decay
    match spec.optimizer:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        case "adam":  # weight decay as a part of the gradient
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay)
        case _:  # with the learning rate as given, not one of its own making
            return Adafactor(parameters, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False)


def make_scheduler(spec: TrainingSpec, optimizer: Any, total_steps: int) -> Any:
    """The learning rate by step: rising from 0 while it warms up, then as the name says."""
    name = "constant_with_warmup" if spec.scheduler == "constant" else spec.scheduler
    warmup = math.ceil(total_steps * spec.warmup_ratio)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)
