"""Checkpoints: folders that are complete or do not exist.

``checkpoints/step-N/`` holds the adapter as it is served (``adapter_model.safetensors``, ``adapter_config.json``) and
what is needed to go on exactly (``state.safetensors``: the optimiser's tensors; ``state.json``: everything else). Each
is written beside its place, put on the disk and renamed; once there it never changes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .adapter import load_weights, save_adapter
from .errors import TrainingError
from .progress import Progress

_INTERIM_KEPT = 2
"""Interim checkpoints kept: whoever copies one has until the next but one to do so."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What moves while a run trains, apart from its progress."""

    peft: Any
    parameters: dict[str, torch.Tensor]
    optimizer: Any
    scheduler: Any


class Checkpoints:
    """The checkpoints of one run; ``fingerprint`` names the data and settings that they belong to."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*"):
            shutil.rmtree(leftover)

    def path(self, step: int) -> Path:
        """Where a step's checkpoint is or would be."""
        return self._folder / f"step-{step}"

    def save(self, training: Training, progress: Progress, *, interim: bool) -> Path:
        """Write one; one that is there already is the same and stays as it is."""
        final = self.path(progress.step)
        if final.exists():
            return final
        tensors, scalars = _optimizer_state(training)
        state = {
            "fingerprint": self._fingerprint,
            "interim": interim,
            "progress": progress.to_dict(),
            "scheduler": {key: value for key, value in training.scheduler.state_dict().items() if key != "lr_lambdas"},
            "optimizer": scalars,
        }

        def fill(folder: Path) -> None:
            save_adapter(training.peft, folder)
            save_file(tensors, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

        write_folder(final, fill)
        return final

    def restore(self, training: Training, warn: Callable[[str], None]) -> Progress:
        """Set everything to the newest checkpoint that can be read; a fresh progress when there is none."""
        for step in sorted(self._steps(), reverse=True):
            try:
                return self._load(self.path(step), training)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                warn(f"Checkpoint step-{step} cannot be read ({error}); an earlier one is taken.")
                shutil.rmtree(self.path(step))
        return Progress()

    def drop_old_interim(self) -> None:
        """Delete interim checkpoints but the newest ones."""
        interim = [step for step in sorted(self._steps()) if self._is_interim(step)]
        for step in interim[:-_INTERIM_KEPT]:
            retired = self._folder / f".step-{step}"
            self.path(step).rename(retired)
            shutil.rmtree(retired)

    def _load(self, folder: Path, training: Training) -> Progress:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["fingerprint"] != self._fingerprint:
            raise TrainingError(
                "checkpoint_mismatch",
                f"checkpoint {folder.name} was made with other data or settings; train them in a folder of their own",
            )
        tensors = load_file(folder / "state.safetensors")
        load_weights(training.peft, folder)
        _set_optimizer_state(training, tensors, state["optimizer"])
        training.scheduler.load_state_dict(state["scheduler"] | {"lr_lambdas": [None]})
        return Progress(**state["progress"])

    def _steps(self) -> Iterator[int]:
        for path in self._folder.glob("step-*"):
            if path.name.removeprefix("step-").isdigit():
                yield int(path.name.removeprefix("step-"))

    def _is_interim(self, step: int) -> bool:
        state = json.loads((self.path(step) / "state.json").read_text(encoding="utf-8"))
        return bool(state["interim"])


def write_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder appear at once, with all its files on the disk; one that is there is replaced."""
    partial = final.parent / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    for path in (*partial.iterdir(), partial):
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _optimizer_state(training: Training) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors by "name|key", numbers by the same) of the optimiser, and its current learning rates."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in training.parameters.items():
        for key, value in training.optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{name}|{key}"] = value.detach().cpu().contiguous()
            else:
                numbers[f"{name}|{key}"] = value
    rates = [group["lr"] for group in training.optimizer.param_groups]
    return tensors, {"state": numbers, "learning_rates": rates}


def _set_optimizer_state(training: Training, tensors: dict[str, torch.Tensor], document: dict[str, Any]) -> None:
    for key, value in tensors.items() | document["state"].items():
        name, _, part = key.rpartition("|")
        parameter = training.parameters[name]
        is_large = isinstance(value, torch.Tensor) and value.dim()  # counters stay where the optimiser keeps them
        training.optimizer.state[parameter][part] = value.to(parameter.device) if is_large else value
    for group, rate in zip(training.optimizer.param_groups, document["learning_rates"], strict=True):
        group["lr"] = rate
