"""What to train, as ``spec.json`` says it. Standard library alone: the control plane writes what this module reads.

.. code-block:: json

    {"base_folder": "/models/smollm2-135m-instruct", "method": "supervised", "seed": 7, "n_epochs": 3,
     "batch_size": 16, "learning_rate": 0.0002, "max_seq_length": 1024, "lora": {"r": 16, "alpha": 32}}
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import TrainingError

METHODS = ("supervised", "dpo")
OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor")
SCHEDULERS = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt")
PRECISIONS = ("auto", "fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda")

ALL_LINEAR = "all-linear"
"""As ``target_modules``: every linear layer but the one that makes logits, as PEFT understands it."""
HIGHEST_RANK = 512
"""The highest rank that vLLM serves; a node may be set up for less. Source: ``MaxLoRARanks`` in vllm.config.lora."""

_NOT_SERVED = {
    "use_dora": "DoRA",
    "modules_to_save": "fully trained modules beside the adapter",
    "bias": "trained biases",
    "lora_bias": "biases inside the adapter",
    "rank_pattern": "ranks that differ between layers",
    "alpha_pattern": "scales that differ between layers",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "init_lora_weights": "initialisations that change the base model's weights",
    "target_parameters": "adapters on bare parameters",
    "trainable_token_indices": "trained token embeddings",
}
"""Settings of PEFT whose results vLLM cannot serve, or only some of its versions."""
_OUTSIDE_LAYERS = ("lm_head", "embed_tokens", "wte", "embed_out", "embed_in")


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """The adapter. A weight of shape (out, in) gets ``alpha / r * B @ A`` added, B (out, r) and A (r, in)."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Probability in [0, 1) that an input of the adapter is dropped, in training only."""
    target_modules: str | list[str] = ALL_LINEAR
    """Last parts of the names of linear layers, such as ``q_proj``; or :data:`ALL_LINEAR`."""


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop after so many checkpoints in a row without a lower loss on the whole validation set."""

    patience: int = 1


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """One run; every value is what is used, nothing is chosen later but "auto" by the device."""

    base_folder: str
    """A folder with config.json and *.safetensors."""
    method: str
    seed: int
    n_epochs: int
    batch_size: int
    """Examples (DPO: pairs) of one optimiser step, on all devices together."""
    learning_rate: float
    """The highest one, reached after warming up."""
    max_seq_length: int
    """Longest example in tokens; a longer one is an error, since the bill was made from what is in the file."""
    scheduler: str = "linear"
    warmup_ratio: float = 0.0
    """Part of all steps in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    gradient_accumulation: int = 1
    """In how many passes, at least, a step is computed. It saves memory and changes no result."""
    optimizer: str = "adamw"
    packing: bool = True
    """Without padding, and a prompt's beginning that examples of a pass share is computed once; same results."""
    group_by_length: bool = False
    """Make batches of examples of similar length: less padding without packing, but batches are less random."""
    lora: LoraSpec = field(default_factory=LoraSpec)
    beta: float = 0.1
    """DPO: how much the model is held to where it began."""
    early_stopping: EarlyStopping | None = None
    n_checkpoints: int | None = None
    """Evenly spread over the run, the last one at its end; None: one an epoch."""
    eval_every: int | None = None
    """Steps between evaluations on ``validation_subset`` rows; None: at checkpoints only, on all rows."""
    validation_subset: int = 64
    checkpoint_seconds: float = 600.0
    """An interim checkpoint is written when so long none was: what a crash may cost."""
    precision: str = "auto"
    """"auto": bf16 on devices that compute in it, else fp32. The adapter itself is always fp32."""
    gradient_checkpointing: bool = False
    device: str = "auto"

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> TrainingSpec:
        """Check and read; :class:`TrainingError` names the first key that is missing, unknown or makes no sense."""
        lora = document.get("lora")
        if isinstance(lora, dict):
            check_peft_config(lora)
            document = document | {"lora": {key: lora[key] for key in lora.keys() - _NOT_SERVED.keys()}}
        spec: TrainingSpec = _read(cls, document, "")
        _check(spec)
        return spec

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` reads."""
        return dataclasses.asdict(self)


def load_spec(path: Path) -> TrainingSpec:
    """Read ``spec.json``."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError("spec_invalid", f"{path.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise TrainingError("spec_invalid", f"{path.name} must hold an object")
    return TrainingSpec.from_dict(document)


def check_peft_config(settings: dict[str, Any]) -> None:
    """Refuse settings of PEFT (an ``adapter_config.json``, or ``lora`` of a spec) that vLLM cannot serve."""
    for key in settings.keys() & _NOT_SERVED.keys():
        value = settings[key]
        if value in (None, False, "none", [], {}) or (key == "init_lora_weights" and value is True):
            continue
        raise TrainingError(
            "adapter_not_servable",
            f"lora.{key}: vLLM cannot serve {_NOT_SERVED[key]}, so the trained model could not be called. "
            "Leave it out.",
        )


def _check(spec: TrainingSpec) -> None:
    _one_of("method", spec.method, METHODS)
    _one_of("optimizer", spec.optimizer, OPTIMIZERS)
    _one_of("scheduler", spec.scheduler, SCHEDULERS)
    _one_of("precision", spec.precision, PRECISIONS)
    _one_of("device", spec.device, DEVICES)
    _at_least("seed", spec.seed, 0)
    for name in ("n_epochs", "batch_size", "gradient_accumulation", "n_checkpoints", "eval_every", "validation_subset"):
        _at_least(name, getattr(spec, name), 1)
    _at_least("max_seq_length", spec.max_seq_length, 2)
    for name in ("learning_rate", "beta", "checkpoint_seconds"):
        _above(name, getattr(spec, name))
    for name in ("weight_decay", "max_grad_norm"):
        _at_least(name, getattr(spec, name), 0)
    if not 0 <= spec.warmup_ratio < 1:
        raise _bad("warmup_ratio", spec.warmup_ratio, "at least 0 and below 1")
    if spec.early_stopping is not None:
        _at_least("early_stopping.patience", spec.early_stopping.patience, 1)
    _check_lora(spec.lora)


def _check_lora(lora: LoraSpec) -> None:
    _at_least("lora.r", lora.r, 1)
    _above("lora.alpha", lora.alpha)
    if not 0 <= lora.dropout < 1:
        raise _bad("lora.dropout", lora.dropout, "at least 0 and below 1")
    if lora.r > HIGHEST_RANK:
        raise TrainingError(
            "adapter_not_servable", f"lora.r: vLLM serves ranks up to {HIGHEST_RANK}, so {lora.r} could not be called."
        )
    if isinstance(lora.target_modules, str):
        if lora.target_modules != ALL_LINEAR:
            raise _bad("lora.target_modules", lora.target_modules, f'a list of names or "{ALL_LINEAR}"')
        return
    if not lora.target_modules:
        raise _bad("lora.target_modules", lora.target_modules, "a list of at least one name")
    for name in lora.target_modules:
        if name.rsplit(".", 1)[-1] in _OUTSIDE_LAYERS:
            raise TrainingError(
                "adapter_not_servable",
                f"lora.target_modules: an adapter on {name!r} is not served by vLLM for every model; name layers like "
                f'q_proj, or "{ALL_LINEAR}".',
            )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise _bad(name, value, f"one of {', '.join(known)}")


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise _bad(name, value, f"at least {least}")


def _above(name: str, value: float) -> None:
    if value <= 0:
        raise _bad(name, value, "above 0")


def _bad(name: str, value: Any, wanted: str) -> TrainingError:
    return TrainingError("spec_invalid", f"{name}: {value!r} must be {wanted}")


def _read(kind: type[Any], document: dict[str, Any], where: str) -> Any:
    """A dataclass from an object of the same keys."""
    fields = {known.name: known for known in dataclasses.fields(kind)}
    for key in document.keys() - fields.keys():
        raise TrainingError("spec_invalid", f"{where}{key} is not a known key; known are: {', '.join(fields)}")
    hints, values = typing.get_type_hints(kind), {}
    for name, known in fields.items():
        if name in document:
            values[name] = _value(hints[name], document[name], f"{where}{name}")
        elif known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING:
            raise TrainingError("spec_invalid", f"{where}{name} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in choices:
        return None
    for choice in choices:
        if dataclasses.is_dataclass(choice) and isinstance(value, dict):
            return _read(typing.cast("type[Any]", choice), value, f"{name}.")
        if typing.get_origin(choice) is list and isinstance(value, list) and all(isinstance(v, str) for v in value):
            return value
        if choice is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if isinstance(choice, type) and type(value) is choice and choice is not float:
            return value
    words = " or ".join(_WORDS.get(choice, "an object") for choice in choices)
    raise _bad(name, value, words)


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of text",
    types.NoneType: "null",
}
