"""Turn a fine-tuned model that was taken home into an ordinary one: base weights with the adapter added to them.

For its owner, on any machine with the base model (:mod:`.prepare` brings it) and this package's environment. One
tensor at a time: besides the shard that is being written, memory holds one matrix.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

import structlog
import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .prepare import MODEL_CARD, read_card
from .protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .sources import SourceError

MANIFEST = "manifest.json"
PREFIX = "base_model.model."

log = structlog.get_logger(__name__)


def merge(adapter: Path, base: Path, out: Path, *, public_key: Path | None = None) -> None:
    """Write the merged model into a new folder; :class:`SourceError` when the three do not belong together.

    ``adapter`` is the unpacked archive, ``base`` a prepared model. With a public key (PEM) the manifest's signature is
    verified, too.
    """
    if out.exists():
        raise SourceError(f"{out} exists already")
    _check_origin(adapter, base, public_key)
    config: dict[str, Any] = json.loads((adapter / ADAPTER_CONFIG).read_text())
    rank, alpha = config["r"], config["lora_alpha"]
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    changes = load_file(adapter / ADAPTER_WEIGHTS)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        merged: set[str] = set()
        for shard in sorted(base.glob("*.safetensors")):
            merged |= _merge_shard(shard, partial / shard.name, changes, scale)
        missing = {name.rpartition(".lora_")[0] for name in changes} - {f"{PREFIX}{name}" for name in merged}
        if missing:
            raise SourceError(f"the base has no {', '.join(sorted(missing)[:5])}: it is another model")
        for path in base.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name != MODEL_CARD:
                shutil.copyfile(path, partial / path.name)
        if (adapter / MANIFEST).exists():
            shutil.copyfile(adapter / MANIFEST, partial / "adapter-manifest.json")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("model_merged", folder=str(out), modules=len(merged), scale=scale)


def _check_origin(adapter: Path, base: Path, public_key: Path | None) -> None:
    card = read_card(base)
    if card is None:
        raise SourceError(f"{base} is not a prepared model")
    path = adapter / MANIFEST
    if not path.exists():
        if public_key is not None:
            raise SourceError(f"{path} is missing, so there is nothing to verify")
        return
    if public_key is not None:
        _verify(path, public_key)
    manifest = json.loads(path.read_bytes())
    if manifest["base_revision"] != card["revision"]:
        raise SourceError(
            f"the adapter was trained on revision {manifest['base_revision'][:12]} of {manifest['base']}, "
            f"{base} is revision {card['revision'][:12]} of {card['name']}"
        )
    for name, file in manifest["files"].items():
        with (adapter / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != file["sha256"]:
                raise SourceError(f"{name} is not the file that the manifest describes")


def _verify(manifest: Path, public_key: Path) -> None:
    key = load_pem_public_key(public_key.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise SourceError(f"{public_key} is not an Ed25519 key")
    try:
        key.verify(b64decode(manifest.with_name(f"{MANIFEST}.sig").read_bytes()), manifest.read_bytes())
    except (InvalidSignature, ValueError, OSError) as error:
        raise SourceError(f"{manifest} was not signed with this key, or has been changed since") from error


def _merge_shard(source: Path, target: Path, changes: dict[str, torch.Tensor], scale: float) -> set[str]:
    """The modules of this file that the adapter changes."""
    tensors: dict[str, torch.Tensor] = {}
    merged: set[str] = set()
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
        for name in file.keys():  # noqa: SIM118  # not a dict
            weight = file.get_tensor(name)
            module = name.removesuffix(".weight")
            down, up = (changes.get(f"{PREFIX}{module}.lora_{part}.weight") for part in "AB")
            if down is not None and up is not None:
                weight = (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
                merged.add(module)
            tensors[name] = weight
    save_file(tensors, target, metadata=metadata)
    return merged
