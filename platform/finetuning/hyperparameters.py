"""What a job is trained with: as asked for, and with ``auto`` decided from the size of its data.

The same request on the same data gives the same numbers: nothing here looks at the clock, at chance, or at a node.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from finetuning.models import FineTuningJob

AUTO = "auto"
ALL_LINEAR = "all-linear"
SCHEDULERS = ("linear", "cosine", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt")
OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor")
PRECISIONS = ("auto", "fp32", "bf16")
TRAIN_ON = ("assistant", "all")
MAX_EPOCHS = 100
MAX_RANK = 64
"""As nodes are set up; what vLLM itself could serve is more."""

BASE_LEARNING_RATES = {FineTuningJob.Method.SUPERVISED: 2e-4, FineTuningJob.Method.DPO: 5e-5}
"""Of adapters, times ``learning_rate_multiplier``."""
_EPOCHS = 3
_FEWEST_EXAMPLES, _MOST_EXAMPLES = 300, 30_000
"""What a training sees all in all where the number of epochs is left to us, within reason."""
_LONGEST = 4_096
_CHECKPOINTS = 3


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The adapter; an input's change is scaled by ``alpha / r``."""

    r: int
    alpha: float
    dropout: float
    target_modules: str | list[str]


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop after so many checkpoints in a row without a lower validation loss."""

    patience: int


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Every number that decides a training, none of them ``auto`` but what the device alone can decide."""

    n_epochs: int
    batch_size: int
    """Examples, or pairs, of one step."""
    learning_rate: float
    learning_rate_multiplier: float
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    gradient_accumulation: int
    optimizer: str
    packing: bool
    group_by_length: bool
    max_seq_length: int
    train_on: str
    beta: float
    early_stopping: EarlyStopping | None
    n_checkpoints: int
    precision: str
    gradient_checkpointing: bool
    lora: Lora

    def steps(self, rows: int) -> int:
        """Steps of the whole training on so many rows, unless it stops early."""
        return math.ceil(rows / self.batch_size) * self.n_epochs

    def to_spec(self, *, method: str, seed: int, rows: int) -> dict[str, Any]:
        """What the trainer reads (``inference_workers/training/spec.py``), but for what only the node knows."""
        members = asdict(self)
        del members["learning_rate_multiplier"], members["train_on"]
        steps_per_epoch = math.ceil(rows / self.batch_size)
        return members | {
            "method": method,
            "seed": seed,
            # About ten points of validation loss an epoch; on all rows at each checkpoint, whatever comes first.
            "eval_every": max(1, steps_per_epoch // 10),
        }


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What decides beside the customer: the data, the base model, a recipe, a model that is continued."""

    method: str
    context_length: int
    rows: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of the recipe, by name; a customer's own values come first."""
    lora: Lora | None = None
    """The shape of the adapter that is trained on."""


def asked_for(hyperparameters: dict[str, Any], name: str, default: Any = AUTO) -> Any:
    """A value as the customer has asked for it; what is missing is as good as ``auto``."""
    value = hyperparameters.get(name)
    return default if value in (None, AUTO) else value


def max_seq_length(hyperparameters: dict[str, Any], *, context_length: int) -> int:
    """Where examples are cut, in tokens: known before the data is."""
    value: int = asked_for(hyperparameters, "max_seq_length", min(_LONGEST, context_length))
    return min(value, context_length)


def resolve(hyperparameters: dict[str, Any], choices: Choices) -> Hyperparameters:
    """The numbers of a training."""
    own = {name: value for name, value in hyperparameters.items() if value not in (None, AUTO)}
    asked = {**choices.recipe, **own}
    n_epochs = asked.get("n_epochs") or _auto_epochs(choices.rows)
    multiplier = own.get("learning_rate_multiplier", 1.0)
    usual_rate = choices.recipe.get("learning_rate") or BASE_LEARNING_RATES[FineTuningJob.Method(choices.method)]
    stopping = asked.get("early_stopping")
    is_dpo = choices.method == FineTuningJob.Method.DPO
    return Hyperparameters(
        n_epochs=n_epochs,
        batch_size=min(asked.get("batch_size") or _auto_batch_size(choices.rows), choices.rows),
        learning_rate=own.get("learning_rate", usual_rate * multiplier),
        learning_rate_multiplier=multiplier,
        scheduler=asked.get("scheduler", "linear"),
        warmup_ratio=asked.get("warmup_ratio", 0.05),
        weight_decay=asked.get("weight_decay", 0.0),
        max_grad_norm=asked.get("max_grad_norm", 1.0),
        gradient_accumulation=asked.get("gradient_accumulation", 1),
        optimizer=asked.get("optimizer", "adamw"),
        packing=asked.get("packing", True),
        group_by_length=asked.get("group_by_length", False),
        max_seq_length=max_seq_length(hyperparameters, context_length=choices.context_length),
        train_on=asked.get("train_on", "assistant"),
        beta=asked.get("beta", 0.1) if is_dpo else 0.1,
        early_stopping=EarlyStopping(patience=stopping["patience"]) if stopping else None,
        n_checkpoints=asked.get("n_checkpoints") or min(_CHECKPOINTS, n_epochs),
        precision=asked.get("precision", "auto"),
        gradient_checkpointing=asked.get("gradient_checkpointing", False),
        lora=choices.lora or _lora(asked.get("lora") or {}),
    )


def _auto_epochs(rows: int) -> int:
    """Three, more of very little data and fewer of a lot."""
    if rows * _EPOCHS < _FEWEST_EXAMPLES:
        return min(25, math.ceil(_FEWEST_EXAMPLES / rows))
    return max(1, min(_EPOCHS, _MOST_EXAMPLES // rows))


def _auto_batch_size(rows: int) -> int:
    """About sixty steps an epoch or more, and a size that is a power of two: 4 to 32."""
    return int(min(32, max(4, 2 ** int(math.log2(max(1, rows / 64))))))


def _lora(asked: dict[str, Any]) -> Lora:
    r = asked_for(asked, "r", 16)
    return Lora(
        r=r,
        alpha=float(asked_for(asked, "alpha", 2 * r)),
        dropout=float(asked_for(asked, "dropout", 0.0)),
        target_modules=asked_for(asked, "target_modules", ALL_LINEAR),
    )
