"""Examples as the tensors of one pass.

Packed, a pass is one flat row of tokens without padding, in which samples do not see each other: positions begin at 0
for each, and attention (:mod:`.attention`) keeps them apart. Samples that begin alike share that beginning in a prefix
tree: what a token is to the model depends on nothing but the tokens before it, so it is computed once for all of them,
and its gradient is the sum of theirs. A system prompt, an instruction, the prompt of a DPO pair cost once a pass
instead of once a sample. The numbers are those of separate samples but for the order of float sums; only dropout, when
there is any, draws once for what is shared.

Unpacked, a pass is one padded row a sample and the model's own attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Some
from dataclasses import dataclass
from typing import Any

import torch

from .attention import Branch, Layout
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
    tree = _Tree()
    paths = [tree.add(sequence.ids) for sequence in sequences]
    inputs = {
        "input_ids": torch.tensor([tree.tokens], device=device),
        "position_ids": torch.tensor([tree.depths], device=device),
        "layout": Layout(tree.branches(), device),
    }
    at = [path[label - 1] for path, sequence in zip(paths, sequences, strict=True) for label in sequence.labels]
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


class _Tree:
    """A prefix tree of tokens; nodes are numbered as they come, so a parent's number is below its children's."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self._parents: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}

    def add(self, tokens: list[int]) -> list[int]:
        """The nodes from the root to the last token."""
        path: list[int] = []
        node = -1
        for depth, token in enumerate(tokens):
            known = self._nodes.setdefault((node, token), len(self.tokens))
            if known == len(self.tokens):
                self.tokens.append(token)
                self.depths.append(depth)
                self._parents.append(node)
            node = known
            path.append(node)
        return path

    def branches(self) -> list[Branch]:
        """Every node in exactly one: a branch ends where the tree forks or ends."""
        children = Counter(self._parents)
        branch_of: list[int] = []
        owned: list[list[int]] = []
        for node, parent in enumerate(self._parents):
            if parent >= 0 and children[parent] == 1:
                branch_of.append(branch_of[parent])
                owned[branch_of[node]].append(node)
            else:
                branch_of.append(len(owned))
                owned.append([node])
        paths: list[list[int]] = []
        for nodes in owned:
            parent = self._parents[nodes[0]]
            paths.append((paths[branch_of[parent]] if parent >= 0 else []) + nodes)
        return [Branch(path=path, own=len(nodes)) for path, nodes in zip(paths, owned, strict=True)]
