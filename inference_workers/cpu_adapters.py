"""Adapters on vLLM's CPU backend, computed group by group.

vLLM 0.32 gathers an adapter's weights anew for every token on CPUs, which makes a prompt about five times as slow with
an adapter as without, and a row without one reads the last slot, because its index is -1 (:mod:`.adapter_slots`). Here
the tokens of one adapter are multiplied with its weights at once, and those without one with none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """Adapters of linear layers, one product for each adapter in a step. Shapes are those of vLLM's wrapper."""

    _groups: Sequence[tuple[int, torch.Tensor | slice]] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Before a step: which tokens belong to which slot."""
        super().update_metadata(*args, **kwargs)
        indices = self.token_lora_indices
        slots = torch.unique(indices).tolist()
        self._groups = [
            (slot, slice(None) if len(slots) == 1 else torch.nonzero(indices == slot).squeeze(1))
            for slot in slots
            if slot >= 0
        ]

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        """``y = scale * x @ A.T``; ``y`` [tokens, rank] holds zeros, ``w_t_all`` is [slots, 1, rank, inputs]."""
        y = y.view(-1, y.shape[-1])
        for slot, tokens in self._groups:
            weights = w_t_all[slot, 0].to(y.dtype)
            y[tokens, : weights.shape[0]] = scale * (x[tokens].to(y.dtype) @ weights.T)

    def _apply_expand(  # noqa: PLR0917  # as vLLM calls it
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        """``y[:, slice] += x @ B.T``; ``x`` is [tokens, rank], ``w_t_all`` [slots, 1, outputs, rank]."""
        part = slice(y_offset, y_offset + y_slice_size)
        for slot, tokens in self._groups:
            products = x[tokens].to(y.dtype) @ w_t_all[slot, 0].to(y.dtype).T
            if add_inputs:
                y[tokens, part] += products
            else:
                y[tokens, part] = products
