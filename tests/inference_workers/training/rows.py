"""Prepared rows of a made-up task: tell the label from the last token of the prompt."""

import json
import random
from pathlib import Path
from typing import Any

LABEL = 100
"""The first of four label tokens."""
END = 104


def labelled_rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Supervised rows: a common beginning, noise, a token that tells the label; then label and end, both trained."""
    source = random.Random(seed)
    rows = []
    for number in range(count):
        label = source.randrange(4)
        noise = [source.randrange(40, 90) for _ in range(source.randrange(2, 14))]
        ids = [1, 2, 3, 4, 5, *noise, 6, 20 + label, LABEL + label, END]
        rows.append({"line": number + 1, "ids": ids, "trained": [[len(ids) - 2, len(ids)]]})
    return rows


def preference_rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    """Pairs of the same task: the right label is chosen, another one rejected."""
    source = random.Random(seed)
    pairs = []
    for row in labelled_rows(count, seed=seed):
        *prompt, label, end = row["ids"]
        wrong = LABEL + (label - LABEL + source.randrange(1, 4)) % 4
        pairs.append({"line": row["line"], "prompt": prompt, "chosen": [label, end], "rejected": [wrong, end]})
    return pairs


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
