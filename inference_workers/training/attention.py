"""Attention over a packed pass, registered with transformers under :data:`NAME`.

Only attention needs samples apart: it gathers each one's queries, keys and values into a row of its own, padded on the
right. Under causal attention no real token sees what stands right of it, so no mask is needed and the fast kernels of
every device apply. Everything else of the model runs on the flat tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "hone_packed"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the tokens of a flat row stand in their samples."""

    members: torch.Tensor
    """(samples, longest) index of the flat token at each place; any index where the sample has ended."""
    homes: torch.Tensor
    """(tokens,) a place of each flat token in ``members``, flattened."""


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The signature that transformers asks for: (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    rows, longest = layout.members.shape
    places = layout.members.flatten()

    def apart(states: torch.Tensor) -> torch.Tensor:
        flat = states[0].transpose(0, 1)
        return flat.index_select(0, places).view(rows, longest, *flat.shape[1:]).transpose(1, 2)

    window = None
    if sliding_window is not None and sliding_window < longest:
        distance = torch.arange(longest, device=query.device)
        distance = distance[:, None] - distance[None, :]
        window = (distance >= 0) & (distance < sliding_window)
    mixed = scaled_dot_product_attention(
        apart(query),
        apart(key),
        apart(value),
        attn_mask=window,
        dropout_p=dropout,
        is_causal=window is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    flat = mixed.transpose(1, 2).reshape(rows * longest, *mixed.shape[1:2], mixed.shape[3])
    return flat.index_select(0, layout.homes).unsqueeze(0), None


AttentionInterface.register(NAME, attend)
