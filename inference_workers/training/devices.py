"""The processes of one run: one, or as many as ``accelerate launch`` or ``torchrun`` has started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce

from .batching import passes
from .dataset import Dataset, Example
from .errors import Stopped, TrainingError
from .model import TrainedModel


class Team:
    """This process among those that share each step's examples; gradients and numbers are summed over all."""

    def __init__(self, device: str, stop_wanted: Callable[[], bool]) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise TrainingError("device_unavailable", 'device "cuda" is asked for, and this machine offers none')
        state = PartialState(cpu=device == "cpu")
        self.index: int = state.process_index
        self.count: int = state.num_processes
        self.device: torch.device = state.device
        self._state = state
        self._stop_wanted = stop_wanted
        self.is_stopping = False
        """Whether any of them was asked to stop, as known to all after :meth:`total`."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes what the run leaves behind."""
        return self.index == 0

    def passes(
        self, dataset: Dataset, rows: np.ndarray, model: TrainedModel, *, at_least: int = 1
    ) -> Iterator[list[Example]]:
        """This process's part of those rows, in what its device computes at once; :class:`Stopped` between two."""
        mine = rows[np.argsort(dataset.tokens[rows], kind="stable")][self.index :: self.count]
        examples, most_tokens = dataset.read(mine), model.tokens_at_once
        for group in passes(examples, at_least=at_least, most_tokens=most_tokens, packing=model.packing):
            if self.count == 1 and self._stop_wanted():  # several processes stop together, after a step
                raise Stopped
            yield group

    def total(self, sums: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
        """Those numbers summed over all processes, on each."""
        wish = float(self._stop_wanted()) if self.count > 1 else 0.0
        values = torch.tensor([*(sums[name] for name in names), wish], dtype=torch.float64, device=self.device)
        *totals, wish = self._sum(values).tolist()
        self.is_stopping = self.is_stopping or wish > 0
        return dict(zip(names, totals, strict=True))

    def sum_gradients(self, parameters: list[torch.Tensor]) -> None:
        """Each process's gradients become those of all."""
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self._sum(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for parameter, part in zip(parameters, total.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)

    def wait(self) -> None:
        """Until all have come here."""
        self._state.wait_for_everyone()

    def close(self) -> None:
        """Leave the others."""
        self._state.destroy_process_group()

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.count == 1:
            return values
        total: torch.Tensor = reduce(values, "sum")
        return total


def make_deterministic() -> None:
    """The same run gives the same numbers; before the device is first used."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # What has no deterministic form on a device warns: a run that differs in its noise is better than none.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cuda.enable_mem_efficient_sdp(enabled=False)  # its backward pass has none; the others have
    torch.backends.cudnn.benchmark = False
