"""What is in a model's safetensors files, from their headers alone: weights may be hundreds of gigabytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from .sources import SourceError

_NOT_LINEAR = ("embed", "lm_head", "wte", "wpe")
"""Parts of names of matrices that look things up, or that may be tied to such: the engine takes no adapter on them."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; :class:`SourceError` when it is none, or cut off.

    Source: the safetensors format: u64 length of a JSON header, the header, the bytes it describes.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < size else {}
        tensors = {
            name: Tensor(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1])
            for name, entry in header.items()
            if name != "__metadata__"
        }
        end = max(tensor.end for tensor in tensors.values())
    except (struct.error, ValueError, KeyError) as error:
        raise SourceError(f"{path.name} is not a safetensors file") from error
    if size != 8 + length + end:
        raise SourceError(f"{path.name} has {size} bytes, its header describes {8 + length + end}")
    return tensors


def linear_modules(folder: Path) -> dict[str, list[int]]:
    """Output and input size of each linear module that an adapter may change, by the module's name."""
    return {
        name.removesuffix(".weight"): list(tensor.shape)
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in sorted(read_header(path).items())
        if name.endswith(".weight") and len(tensor.shape) == 2 and not any(part in name for part in _NOT_LINEAR)
    }
