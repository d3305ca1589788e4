"""Adapters by hand: the bytes of PEFT's two files, and the models that are made of them."""

import json
import struct
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from catalog.adapters import AdapterFile
from catalog.models import BaseModel, FineTunedModel
from catalog.publishing import mark_ready, register_adapter
from common.ids import to_wire, uuid7
from common.storage import save_new
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tests.support.cast import MODEL, Member
from tests.support.model import MODULES

RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(modules: Mapping[str, Any] = MODULES, *, rank: int = RANK, prefix: str = "base_model.model.") -> Shapes:
    """The tensors of an adapter on these modules (output and input size of each)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (out, into) in modules.items():
        shapes[f"{prefix}{module}.lora_A.weight"] = (rank, into)
        shapes[f"{prefix}{module}.lora_B.weight"] = (out, rank)
    return shapes


def safetensors(shapes: Shapes, *, dtype: str = "F32", item: bytes = b"\0\0\x80\x3f") -> bytes:
    """A file in which every number is ``item``: as F32, one."""
    header: dict[str, Any] = {}
    position = 0
    for name, shape in shapes.items():
        size = ITEM_BYTES[dtype]
        for length in shape:
            size *= length
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


def stored(member: Member, contents: Mapping[str, bytes]) -> dict[str, AdapterFile]:
    """The files as a job keeps them: in the storage, under a kind of its own."""
    return {
        path: AdapterFile(
            sha256=sha256(content).hexdigest(),
            bytes=len(content),
            storage_key=save_new(member.organization.id, "training", content),
        )
        for path, content in contents.items()
    }


def register(
    member: Member, *, step: int | None = None, suffix: str = "bot", job: str = "", base: str = MODEL, **changes: bytes
) -> FineTunedModel:
    """A model that has been trained and not been tried; each has weights of its own."""
    job = job or to_wire("ftjob-", uuid7())
    weights = safetensors(shapes_of(), item=sha256(f"{job}{step}".encode()).digest()[:3] + b"\x3f")
    return register_adapter(
        project=member.project,
        base=BaseModel.objects.get(name=base),
        job_id=job,
        step=step,
        suffix=suffix,
        files=stored(member, adapter_contents(**{"weights": weights, **changes})),
        manifest={"dataset": {"sha256": "d" * 64}},
    )


def publish(member: Member, **options: Any) -> FineTunedModel:
    """A model that can be called."""
    return mark_ready(model=register(member, **options))
