"""The order of execution: rows whose prompts begin alike run together, so that the engine's prefix cache serves them.

Engines share work between prompts only block by block and throw the least recently used blocks away, and they take
requests as they come (vllm PR #13740): so the order is ours to choose, before the rows are leased.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

BLOCK_BYTES = 256
MAX_BLOCKS = 32
"""Prefixes longer than 8 KiB are told apart no further: 128 bytes a row are enough to keep in memory."""
_CHECKSUM_BYTES = 4


class Sortable(Protocol):
    """What is put in order."""

    @property
    def prefix(self) -> bytes:
        """The row's :func:`prefix_key`."""


def prefix_key(prompt: Any) -> bytes:
    """Chained checksums of the prompt's whole blocks: two keys agree as far as the prompts themselves do."""
    text = orjson.dumps(prompt)
    key = bytearray()
    checksum = 0
    for start in range(0, min(len(text) - BLOCK_BYTES + 1, MAX_BLOCKS * BLOCK_BYTES), BLOCK_BYTES):
        checksum = zlib.crc32(text[start : start + BLOCK_BYTES], checksum)
        key += checksum.to_bytes(_CHECKSUM_BYTES)
    return bytes(key)


def execution_order(rows: Sequence[Sortable]) -> list[int]:
    """Indices of the rows in the order in which they should run.

    Rows that share their first block stay together, sorted by what they share beyond it; the groups come in the
    order of their first rows, so where nothing is shared the order is that of the file.
    """
    first: dict[bytes, int] = {}
    for index, row in enumerate(rows):
        if row.prefix:
            first.setdefault(row.prefix[:_CHECKSUM_BYTES], index)
    return sorted(
        range(len(rows)),
        key=lambda index: (first.get(rows[index].prefix[:_CHECKSUM_BYTES], index), rows[index].prefix, index),
    )
