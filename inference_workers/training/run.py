"""One run from its folder to its adapter: the loop, and the order in which things are written.

After each step: save the checkpoint that is due (before the evaluation, which may be long), evaluate, report the
step's metrics, announce the checkpoint. A kill between any two of these is repaired by doing the rest again: evaluation
is a function of the weights, and reports of a step that was reported before say the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from .adapter import CONFIG, WEIGHTS
from .batching import StepOrder, spread_steps
from .checkpoints import Checkpoints, Training, write_folder
from .dataset import Dataset, Sequence
from .devices import Team
from .errors import Stopped, TrainingError
from .events import EventLog
from .model import TrainedModel, vocabulary
from .objectives import Objective, PreferenceLoss, SupervisedLoss, means
from .optimization import make_optimizer, make_scheduler
from .progress import Progress
from .spec import TrainingSpec
from .tensorboard import TensorBoardLog
from .validation import Validation

_WITHOUT_RESULT = (
    "base_folder",
    "device",
    "checkpoint_seconds",
    "packing",
    "gradient_accumulation",
    "gradient_checkpointing",
)
"""Settings that may change when a run is taken up again."""


class Run:
    """Trains what a folder says."""

    def __init__(self, folder: Path, spec: TrainingSpec, team: Team, events: EventLog) -> None:
        self._folder, self._spec, self._team, self._events = folder, spec, team, events
        words = vocabulary(Path(spec.base_folder))
        self._train = _dataset(folder / "train.ndjson", spec, words)
        validation = folder / "validation.ndjson"
        held_out = _dataset(validation, spec, words) if validation.exists() else None
        if spec.early_stopping is not None and held_out is None:
            raise TrainingError(
                "spec_invalid", "early_stopping needs validation rows to judge by: give some, or drop it"
            )
        self._order = StepOrder(
            self._train,
            seed=spec.seed,
            batch_size=spec.batch_size,
            n_epochs=spec.n_epochs,
            group_by_length=spec.group_by_length,
        )
        self._due = spread_steps(self._order.total_steps, spec.n_checkpoints or spec.n_epochs)
        continue_from = folder / "from" if (folder / "from").is_dir() else None
        self._model = TrainedModel(spec, team.device, continue_from=continue_from)
        optimizer = make_optimizer(spec, list(self._model.parameters.values()))
        self._training = Training(
            peft=self._model.peft,
            parameters=self._model.parameters,
            optimizer=optimizer,
            scheduler=make_scheduler(spec, optimizer, self._order.total_steps),
        )
        self._objective = self._make_objective(self._train)
        self._validation = self._make_validation(held_out) if held_out else None
        data = [part.sha256 if part else None for part in (self._train, held_out)]
        self._checkpoints = Checkpoints(folder / "checkpoints", _fingerprint(spec, data, continue_from))
        self._saved_at = time.monotonic()
        self._shown: dict[str, Any] = {}
        self._choose_packing()
        if continue_from:
            self._tell_shape()

    def train(self) -> None:
        """To the end, from wherever the folder is; :class:`Stopped` after a checkpoint when that is wanted."""
        progress = self._checkpoints.restore(self._training, lambda text: self._events.message(text, "warn"))
        self._events.message(self._opening(progress))
        board = TensorBoardLog(self._folder / "logs", from_step=progress.step + 1)
        try:
            while progress.step < self._order.total_steps or progress.unreported:
                if progress.unreported is None:
                    progress.unreported = self._make_step(progress)
                    progress.trained_tokens = progress.unreported["trained_tokens"]
                    progress.step += 1
                if self._close_step(progress, board):
                    break
                if self._team.is_stopping:
                    raise Stopped
        except Stopped:
            self._save_for_later(progress)
            raise
        finally:
            board.close()
        self._finish(progress)

    def _make_step(self, progress: Progress) -> dict[str, Any]:
        """Change the weights; the step's metrics."""
        began = time.monotonic()
        rows = self._order.rows(progress.step)
        total = float(self._train.weights[rows].sum()) or 1.0
        torch.manual_seed(_mixed(self._spec.seed, progress.step, self._team.index))
        self._model.train(True)
        self._training.optimizer.zero_grad(set_to_none=True)
        sums: Counter[str] = Counter()
        at_least = self._spec.gradient_accumulation
        for group in self._team.passes(self._train, rows, self._model, at_least=at_least):
            loss, parts = self._objective(group)
            (loss / total).backward()
            sums.update(parts)
        parameters = list(self._model.parameters.values())
        self._team.sum_gradients(parameters)
        totals = self._team.total(sums, self._objective.sums)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._spec.max_grad_norm or math.inf).item()
        shown = means(totals, "train")
        if not math.isfinite(norm) or not math.isfinite(shown["train_loss"]):
            raise TrainingError(
                "diverged",
                f"the loss is no longer a number at step {progress.step + 1}: lower learning_rate, or warm up longer",
            )
        rate = self._training.scheduler.get_last_lr()[0]
        self._training.optimizer.step()
        self._training.scheduler.step()
        tokens = int(self._train.tokens[rows].sum())
        return shown | {
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens_per_second": tokens / (time.monotonic() - began),
            "trained_tokens": progress.trained_tokens + tokens,
        }

    def _close_step(self, progress: Progress, board: TensorBoardLog) -> bool:
        """Save, evaluate and report the step just made; whether training is over before its last step."""
        step, spec = progress.step, self._spec
        is_due = step in self._due
        if is_due:
            self._save(progress, interim=False)
        evaluated: dict[str, float] = {}
        if self._validation is not None and is_due:
            evaluated = self._validation.on_all()
            progress.judge(step, evaluated["valid_loss"])
        elif self._validation is not None and spec.eval_every and step % spec.eval_every == 0:
            evaluated = self._validation.on_some()
        self._shown = (progress.unreported or {}) | evaluated
        progress.unreported = None
        if self._team.is_first:
            self._events.metrics(
                step=step,
                total_steps=self._order.total_steps,
                epoch=step / self._order.steps_per_epoch,
                **self._shown,
            )
            board.scalars(step, self._shown)
        if is_due:
            self._announce(step, interim=False)
        elif time.monotonic() - self._saved_at > spec.checkpoint_seconds:
            self._save(progress, interim=True)
            self._announce(step, interim=True)
        if spec.early_stopping and progress.checkpoints_without_gain >= spec.early_stopping.patience:
            self._events.message(
                f"Stopped early at step {step}: the validation loss was lowest at step {progress.best_step}."
            )
            return True
        return False

    def _save(self, progress: Progress, *, interim: bool) -> None:
        if self._team.is_first:
            self._checkpoints.save(self._training, progress, interim=interim)
            self._checkpoints.drop_old_interim()
        self._saved_at = time.monotonic()

    def _announce(self, step: int, *, interim: bool) -> None:
        if self._team.is_first and step not in self._events.announced:
            path = self._checkpoints.path(step).relative_to(self._folder)
            self._events.checkpoint(step=step, path=str(path), interim=interim, metrics=self._shown)

    def _save_for_later(self, progress: Progress) -> None:
        if progress.step:
            self._save(progress, interim=True)
            if progress.unreported is None or progress.step not in self._due:
                self._announce(progress.step, interim=True)

    def _finish(self, progress: Progress) -> None:
        """Put the adapter in its place: with early stopping the best one, otherwise the last."""
        last = progress.step
        best = progress.best_step or last
        chosen = self._checkpoints.path(best if self._spec.early_stopping else last)
        if self._team.is_first:

            def fill(folder: Path) -> None:
                for name in (WEIGHTS, CONFIG):
                    shutil.copyfile(chosen / name, folder / name)

            write_folder(self._folder / "adapter", fill)
            self._events.done(step=last, trained_tokens=progress.trained_tokens, best_step=best)
        self._team.wait()

    def _make_objective(self, dataset: Dataset) -> Objective:
        if self._spec.method == "dpo":
            return PreferenceLoss(self._model, dataset, self._spec.beta)
        return SupervisedLoss(self._model)

    def _make_validation(self, dataset: Dataset) -> Validation:
        objective = self._make_objective(dataset)
        return Validation(dataset, objective, self._model, self._team, subset=self._spec.validation_subset)

    def _choose_packing(self) -> None:
        sample = _short_samples(self._train)
        self._model.check_head(sample[0])
        if self._spec.packing and not self._model.try_packing(sample):
            self._events.message("This model's layers do not allow packing: examples are padded instead.", "warn")

    def _tell_shape(self) -> None:
        config, wanted = self._model.peft.peft_config["default"], self._spec.lora
        if (config.r, config.lora_alpha) != (wanted.r, wanted.alpha):
            self._events.message(
                f"The adapter that training goes on from keeps its own shape: r {config.r}, alpha "
                f"{config.lora_alpha:g}.",
                "warn",
            )

    def _opening(self, progress: Progress) -> str:
        examples = f"{len(self._train)} examples, {int(self._train.tokens.sum())} tokens"
        steps = f"{self._order.total_steps} steps, {self._model.precision} on {self._team.count} x {self._team.device}"
        if progress.step:
            return f"Training goes on after step {progress.step}: {examples}, {steps}."
        return f"Training begins: {examples}, {steps}."


def _fingerprint(spec: TrainingSpec, data: list[str | None], continue_from: Path | None) -> str:
    """Of everything that decides the numbers."""
    settings = {key: value for key, value in spec.to_dict().items() if key not in _WITHOUT_RESULT}
    start = hashlib.sha256((continue_from / WEIGHTS).read_bytes()).hexdigest() if continue_from else None
    return hashlib.sha256(json.dumps([settings, data, start], sort_keys=True).encode()).hexdigest()


def _mixed(*numbers: int) -> int:
    """A seed for dropout's draws: of one step in one process, whatever came before it."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8])


def _dataset(path: Path, spec: TrainingSpec, vocab_size: int) -> Dataset:
    return Dataset(path, method=spec.method, max_seq_length=spec.max_seq_length, vocab_size=vocab_size)


def _short_samples(dataset: Dataset) -> list[Sequence]:
    """Beginnings of a few rows with every token a label: cheap to compute in two ways."""
    samples = []
    for example in dataset.read(range(min(len(dataset), 3))):
        for sequence in example.sequences:
            ids = sequence.ids[:48]
            labels = list(range(1, len(ids)))
            samples.append(Sequence(ids=ids, labels=labels, weights=[1.0] * len(labels)))
    return samples
