"""Adapters by hand: the bytes of PEFT's two files."""

import json
import math
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterRef, BlobRef

MODULES = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"self_attn.q_proj": [8, 8], "mlp.up_proj": [16, 8]}.items()
}
"""Linear modules of a base model, with output and input size."""
RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(modules: Mapping[str, Any] = MODULES, *, rank: int = RANK) -> Shapes:
    """The tensors of an adapter on these modules."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (out, into) in modules.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = (rank, into)
        shapes[f"base_model.model.{module}.lora_B.weight"] = (out, rank)
    return shapes


def safetensors(shapes: Shapes, *, dtype: str = "F32", item: bytes = b"\0\0\x80\x3f") -> bytes:
    """A file in which every number is ``item``: as F32, one."""
    header: dict[str, Any] = {}
    position = 0
    for name, shape in shapes.items():
        size = ITEM_BYTES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + item * (position // len(item))


def adapter_contents(**changes: bytes) -> dict[str, bytes]:
    """The files of a good adapter; ``config`` and ``weights`` replace them."""
    return {
        ADAPTER_CONFIG: changes.get("config", json.dumps(CONFIG).encode()),
        ADAPTER_WEIGHTS: changes.get("weights", safetensors(shapes_of())),
    }


def distinct_contents(name: str, **config: Any) -> dict[str, bytes]:
    """The files of an adapter with weights of its own, all between 0.5 and 2; ``config`` adds to its configuration."""
    weights = safetensors(shapes_of(), item=sha256(name.encode()).digest()[:3] + b"\x3f")
    return adapter_contents(weights=weights, config=json.dumps(CONFIG | config).encode())


def reference(name: str, contents: Mapping[str, bytes]) -> AdapterRef:
    """The adapter as a node is told of it."""
    files = {
        path: BlobRef(sha256=sha256(content).hexdigest(), bytes=len(content)) for path, content in contents.items()
    }
    return AdapterRef(name=name, files=files, rank=RANK)


def write(folder: Path, contents: Mapping[str, bytes]) -> Path:
    """The files on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    return folder
