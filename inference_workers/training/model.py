"""The model in training: base and adapter on one device, asked for log-probabilities of labels."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Some
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from . import attention
from .adapter import REFERENCE, add_adapter, continue_adapter
from .dataset import Sequence
from .errors import TrainingError
from .log_probs import log_probs
from .memory import tokens_at_once
from .packing import Pass, packed, padded
from .spec import TrainingSpec

_NOISE = {"fp32": 2e-3, "bf16": 0.25}
"""Nats by which two ways to compute a log-probability may differ before they are two different things."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the model thinks of the labels of a pass."""

    log_probs: torch.Tensor
    """(N,) float32, nats."""
    right: torch.Tensor
    """(N,) whether the label is the likeliest token."""
    of: Pass

    def by_sequence(self, values: torch.Tensor) -> torch.Tensor:
        """(sequences,) sums of one value for each label."""
        return torch.zeros(self.of.sequences, device=values.device).index_add_(0, self.of.owners, values)


class TrainedModel:
    """A frozen base with a trainable adapter."""

    def __init__(self, spec: TrainingSpec, device: torch.device, *, continue_from: Path | None) -> None:
        self.device = device
        self.precision = _precision(spec, device)
        base = _load_base(Path(spec.base_folder), device, torch.bfloat16 if self.precision == "bf16" else torch.float32)
        base.requires_grad_(False)
        torch.manual_seed(spec.seed)
        if continue_from is None:
            self.peft = add_adapter(base, spec.lora, name=Path(spec.base_folder).name)
        else:
            self.peft = continue_adapter(
                base, continue_from, dropout=spec.lora.dropout, keep_reference=spec.method == "dpo"
            )
        self._base = base
        self._backbone = getattr(base, base.base_model_prefix)
        self._head = base.get_output_embeddings()
        self.parameters = {name: value for name, value in self.peft.named_parameters() if value.requires_grad}
        """The adapter's weights, by name."""
        if spec.gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.packing = False
        """Whether passes are packed."""
        self.tokens_at_once = tokens_at_once(
            base.config.get_text_config(),
            device,
            weights_bytes=sum(value.nbytes for value in base.parameters()),
            checkpointing=spec.gradient_checkpointing,
        )
        """How large a pass may be."""

    def train(self, training: bool) -> None:
        """Switch dropout on or off."""
        self.peft.train(training)

    def answers(self, sequences: Some[Sequence]) -> Answers:
        """One pass over these sequences."""
        batch = (packed if self.packing else padded)(sequences, self.device)
        with self._autocast():
            hidden = self._backbone(**batch.inputs, use_cache=False).last_hidden_state
            chosen = hidden.flatten(0, 1).index_select(0, batch.at)
            values, right = log_probs(chosen, self._head.weight, self._head.bias, batch.labels)
        return Answers(log_probs=values, right=right, of=batch)

    @contextmanager
    def as_it_began(self) -> Iterator[None]:
        """The model before this run: the base, or the adapter that training goes on from. Without gradients."""
        training = self.peft.training
        self.train(False)
        try:
            with torch.no_grad():
                if REFERENCE in self.peft.peft_config:
                    self.peft.set_adapter(REFERENCE)
                    yield
                else:
                    with self.peft.disable_adapter():
                        yield
        finally:
            if REFERENCE in self.peft.peft_config:
                self.peft.set_adapter("default")
                for value in self.parameters.values():
                    value.requires_grad_(True)
            self.train(training)

    def try_packing(self, sequences: Some[Sequence]) -> bool:
        """Pack from now on, if that gives this architecture's own answers for those sequences.

        Models whose layers look beyond attention from token to token (convolutions, recurrent states), or whose
        attention has terms of its own, do not; they are trained padded.
        """
        self.train(False)
        with torch.no_grad():
            expected = self.answers(sequences).log_probs
            self._base.set_attn_implementation(attention.NAME)
            self.packing = True
            try:
                same = bool((self.answers(sequences).log_probs - expected).abs().max() < _NOISE[self.precision])
            except (TypeError, ValueError, RuntimeError):
                same = False
        if not same:
            self._base.set_attn_implementation("sdpa")
            self.packing = False
        return same

    def check_head(self, sequence: Sequence) -> None:
        """Refuse a model that does more to its hidden states than one linear layer before the logits."""
        self.train(False)
        with torch.no_grad(), self._autocast():
            batch = padded([sequence], self.device)
            logits = self._base(**batch.inputs, use_cache=False).logits[0].float().log_softmax(dim=-1)
        expected = logits[batch.at, batch.labels]
        with torch.no_grad():
            found = self.answers([sequence]).log_probs
        if not bool((found - expected).abs().max() < _NOISE[self.precision]):
            raise TrainingError(
                "base_not_supported",
                f"{self._base.config.model_type} models scale or cap their logits, which the trainer does not know yet",
            )

    def _autocast(self) -> AbstractContextManager[Any]:
        half: AbstractContextManager[Any] = torch.autocast(self.device.type, dtype=torch.bfloat16)
        return half if self.precision == "bf16" else nullcontext()


def vocabulary(folder: Path) -> int:
    """How many token ids the base model knows."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError("base_unreadable", f"the base model's configuration cannot be read: {error}") from error
    return int(config.get_text_config().vocab_size)


def _load_base(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        base = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TrainingError("base_unreadable", f"the base model cannot be loaded: {error}") from error
    return base.to(device)


def _precision(spec: TrainingSpec, device: torch.device) -> str:
    if spec.precision != "auto":
        return spec.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
