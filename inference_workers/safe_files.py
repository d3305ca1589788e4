"""Which files of a model may come onto a node.

An allow-list: weights as safetensors only, since loading a pickle runs the code inside it, and no Python files.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

SAFE_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "NOTICE*", "README.md"]
PICKLE_PATTERNS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file of that name fits one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
