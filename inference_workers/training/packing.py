"""Examples as the tensors of one pass.

Packed, a pass is one flat row of tokens without padding, in which samples do not see each other: positions begin at 0
for each, and attention (:mod:`.attention`) gathers every sample's own tokens. Samples that begin alike share the nodes
of that beginning in a prefix tree: a node's value depends on nothing but the tokens before it, so it is computed once
for all of them, and its gradient is the sum of theirs. A system prompt, an instruction, the prompt of a DPO pair cost
once a pass instead of once a sample. The numbers are those of separate samples but for the order of float sums; only
dropout, when there is any, draws once for a shared node.

Unpacked, a pass is one padded row a sample and the model's own attention.
"""

from __future__ import annotations

from collections.abc import Sequence as Some
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .attention import Layout
from .dataset import Sequence


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Model inputs, and where the labels are."""

    inputs: dict[str, Any]
    """Arguments of the model's forward call."""
    at: torch.Tensor
    """(N,) for each label the flat index of the hidden state that predicts it."""
    labels: torch.Tensor
    """(N,) token ids."""
    weights: torch.Tensor
    """(N,) float32."""
    owners: torch.Tensor
    """(N,) the label's sequence, by its place among the given ones."""
    sequences: int


def packed(sequences: Some[Sequence], device: torch.device) -> Pass:
    """One flat row; the model must use :data:`.attention.NAME`."""
    nodes: dict[tuple[int, int], int] = {}
    ids: list[int] = []
    positions: list[int] = []
    homes: list[int] = []
    longest = max(len(sequence.ids) for sequence in sequences)
    members = np.zeros((len(sequences), longest), dtype=np.int64)
    for number, sequence in enumerate(sequences):
        node = -1
        for position, token in enumerate(sequence.ids):
            known = nodes.setdefault((node, token), len(ids))
            if known == len(ids):
                ids.append(token)
                positions.append(position)
                homes.append(number * longest + position)
            node = members[number, position] = known
    inputs = {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "layout": Layout(
            members=torch.from_numpy(members).to(device),
            homes=torch.tensor(homes, device=device),
        ),
    }
    at = [members[number, label - 1] for number, sequence in enumerate(sequences) for label in sequence.labels]
    return _pass(sequences, inputs, at, device)


def padded(sequences: Some[Sequence], device: torch.device) -> Pass:
    """One row a sequence, padded on the right."""
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros((len(sequences), longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, sequence in enumerate(sequences):
        ids[number, : len(sequence.ids)] = torch.tensor(sequence.ids)
        mask[number, : len(sequence.ids)] = 1
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    at = [number * longest + label - 1 for number, sequence in enumerate(sequences) for label in sequence.labels]
    return _pass(sequences, inputs, at, device)


def _pass(sequences: Some[Sequence], inputs: dict[str, Any], at: list[int], device: torch.device) -> Pass:
    labels = [sequence.ids[label] for sequence in sequences for label in sequence.labels]
    weights = [weight for sequence in sequences for weight in sequence.weights]
    owners = [number for number, sequence in enumerate(sequences) for _ in sequence.labels]
    return Pass(
        inputs=inputs,
        at=torch.tensor(at, dtype=torch.int64, device=device),
        labels=torch.tensor(labels, dtype=torch.int64, device=device),
        weights=torch.tensor(weights, dtype=torch.float32, device=device),
        owners=torch.tensor(owners, dtype=torch.int64, device=device),
        sequences=len(sequences),
    )
