"""Attention over a packed pass, registered with transformers under :data:`NAME`.

Only attention needs samples apart. It works on branches of the prefix tree (:mod:`.packing`): queries are a branch's
own tokens, the keys everything from the root to its end. Branches of similar size are computed together, padded on the
right, where no real token looks. Everything else of the model runs on the flat tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Some
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "hone_packed"

_PADDING = 1.5
"""How much larger than its branches a group may be ..."""
_SMALL = 20_000
"""... unless it is so small, in pairs of a query and a key, that another call would cost more."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Tokens that follow each other, by their places in the flat row."""

    path: list[int]
    """From the root of the tree to the branch's end."""
    own: int
    """How many at the end of the path are the branch's own."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    queries: torch.Tensor
    """(branches, most own tokens) places in the flat row; any place where a branch has ended."""
    keys: torch.Tensor
    """(branches, longest path) places in the flat row; any place where a path has ended."""
    ahead: torch.Tensor | None
    """(branches,) tokens of the path before the branch's own; None when there are none in the whole group."""

    def mask(self, window: int | None) -> torch.Tensor | None:
        """(branches, 1, queries, keys) who sees whom; None: plainly causal."""
        longest = self.keys.shape[1]
        is_windowed = window is not None and window < longest
        if self.ahead is None and not is_windowed:
            return None
        at = torch.arange(self.queries.shape[1], device=self.keys.device)[None, :, None]
        at = at if self.ahead is None else at + self.ahead[:, None, None]
        distance = at - torch.arange(longest, device=self.keys.device)
        seen = distance >= 0
        return (seen & (distance < window) if is_windowed else seen)[:, None]


class Layout:
    """How the tokens of a flat row attend to each other; each token is one branch's own."""

    def __init__(self, branches: Some[Branch], device: torch.device) -> None:
        self._groups: list[_Group] = []
        tokens = sum(branch.own for branch in branches)
        homes = np.empty(tokens, dtype=np.int64)
        start = 0
        for group in _grouped(branches):
            most, longest = max(branch.own for branch in group), max(len(branch.path) for branch in group)
            queries = np.zeros((len(group), most), dtype=np.int64)
            keys = np.zeros((len(group), longest), dtype=np.int64)
            for number, branch in enumerate(group):
                own = branch.path[-branch.own :]
                queries[number, : branch.own], keys[number, : len(branch.path)] = own, branch.path
                homes[own] = start + number * most + np.arange(branch.own)
            start += queries.size
            ahead = torch.tensor([len(branch.path) - branch.own for branch in group], device=device)
            self._groups.append(
                _Group(
                    queries=torch.from_numpy(queries).to(device),
                    keys=torch.from_numpy(keys).to(device),
                    ahead=ahead if ahead.any() else None,
                )
            )
        self._homes = torch.from_numpy(homes).to(device)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, window: int | None, **options: Any
    ) -> torch.Tensor:
        """(heads, tokens, size) in, (tokens, heads, size) out."""
        query, key, value = (states.transpose(0, 1) for states in (query, key, value))
        mixed = []
        for group in self._groups:
            mask = group.mask(window)
            result = scaled_dot_product_attention(
                _apart(query, group.queries),
                _apart(key, group.keys),
                _apart(value, group.keys),
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=query.shape[1] != key.shape[1],
                **options,
            )
            mixed.append(result.transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed).index_select(0, self._homes)


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
    mixed = layout.attend(query[0], key[0], value[0], window=sliding_window, dropout_p=dropout, scale=scaling)
    return mixed.unsqueeze(0), None


def _apart(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, size) to (branches, heads, places, size)."""
    return states.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


def _grouped(branches: Some[Branch]) -> list[list[Branch]]:
    """Branches of similar size together."""
    groups: list[list[Branch]] = []
    real = longest = 0
    for branch in sorted(branches, key=lambda branch: (branch.own, len(branch.path))):
        pairs = branch.own * len(branch.path)
        longest = max(longest, len(branch.path))
        padded = (len(groups[-1]) + 1) * branch.own * longest if groups else 0
        if groups and padded <= max(_PADDING * (real + pairs), _SMALL):
            groups[-1].append(branch)
            real += pairs
        else:
            groups.append([branch])
            real, longest = pairs, len(branch.path)
    return groups


AttentionInterface.register(NAME, attend)
