"""Bring the configured models onto this machine, once: ``python -m inference_workers prepare --config FILE``

A model is built in a folder beside its final place and renamed, under a lock that the system drops when the process
dies: whoever finds ``<HONE_HOME>/models/<name>/hone-model.json`` finds a complete model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from .config import ModelConfig, NodeConfig
from .safe_files import matches
from .sources import SourceError, fetch
from .weights import linear_modules

MODEL_CARD = "hone-model.json"
REVISION_PATTERNS = ["*.safetensors", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "chat_template*"]
"""The files whose bytes decide what a request is answered."""

log = structlog.get_logger(__name__)


def prepare(config: NodeConfig, only: str | None = None) -> None:
    """Bring every model, or the one named, onto the machine; :class:`SourceError` when one cannot be had."""
    for model in config.models:
        if only in (None, model.name):
            with _locked(config.home / "models", model.name):
                _prepare_model(model, config.model_folder(model))


def read_card(folder: Path) -> dict[str, Any] | None:
    """``hone-model.json`` of a prepared model, or None when there is none."""
    try:
        card: dict[str, Any] = json.loads((folder / MODEL_CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return card


def _prepare_model(model: ModelConfig, folder: Path) -> None:
    started = time.monotonic()
    card = read_card(folder)
    if card is not None and card["source"] == model.source:
        context_length = _context_length(folder, model)
        if card["context_length"] != context_length or "modules" not in card:
            _write_card(folder, card | {"context_length": context_length, "modules": linear_modules(folder)})
        log.info("model_present", model=model.name, revision=card["revision"][:12])
        return
    partial = folder.parent / f".{model.name}.{hashlib.sha256(model.source.encode()).hexdigest()[:8]}.partial"
    for leftover in folder.parent.glob(f".{model.name}.*.partial"):
        # A hub's transfer is continued where a killed prepare left it; everything else starts afresh.
        if leftover != partial or not model.source.startswith("hub:"):
            shutil.rmtree(leftover)
    partial.mkdir(exist_ok=True)
    log.info("model_fetching", model=model.name, source=model.source)
    fetch(model.source, partial)
    log.info("model_checking", model=model.name)
    card = _check(model, partial)
    _write_card(partial, card)
    for path in partial.iterdir():
        if not path.is_symlink():
            path.chmod(0o644)  # transfers and conversions leave private files; the control plane may be another user
    os.sync()  # the rename must not reach the disk before the bytes
    retired = folder.parent / f".{model.name}.retired"
    if folder.exists():
        folder.rename(retired)
    partial.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)
    log.info(
        "model_prepared", model=model.name, revision=card["revision"][:12], seconds=round(time.monotonic() - started)
    )


def _check(model: ModelConfig, folder: Path) -> dict[str, Any]:
    """The model's card; refuses a folder that the engine or the control plane could not use."""
    weights = sorted(folder.glob("*.safetensors"))
    modules = linear_modules(folder)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        missing = set(json.loads(index.read_text())["weight_map"].values()) - {path.name for path in weights}
        if missing:
            raise SourceError(f"{model.name}: weights are missing: {', '.join(sorted(missing))}")
    for needed in ("config.json", "tokenizer.json"):
        if not (folder / needed).is_file():
            raise SourceError(f"{model.name}: {needed} is missing (the control plane counts tokens with the tokenizer)")
    settings = json.loads((folder / "config.json").read_text())
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    deciding = [f"{digest}  {name}\n" for name, digest in files.items() if matches(name, REVISION_PATTERNS)]
    return {
        "name": model.name,
        "source": model.source,
        "revision": hashlib.sha256("".join(deciding).encode()).hexdigest(),
        "context_length": _context_length(folder, model),
        "vocab_size": settings.get("text_config", settings)["vocab_size"],
        "capabilities": (["chat"] if _has_chat_template(folder) else []) + ["completions"],
        "modules": modules,
        "files": files,
    } | _license(folder)


def _context_length(folder: Path, model: ModelConfig) -> int:
    """Tokens of prompt and answer together that this node accepts."""
    settings = json.loads((folder / "config.json").read_text())
    settings = settings.get("text_config", settings)
    keys = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    lengths = [settings[key] for key in keys if isinstance(settings.get(key), int)]
    if model.max_model_len is not None:
        lengths.append(model.max_model_len)
    if not lengths:
        raise SourceError(f"{model.name}: config.json names no context length; set max_model_len")
    return int(min(lengths))


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("chat_template"))


def _license(folder: Path) -> dict[str, str]:
    """From the front matter of the README, as hubs keep it."""
    path = folder / "README.md"
    if path.is_file():
        for line in path.read_text(encoding="utf-8").split("---")[1:2]:
            for entry in line.splitlines():
                key, _, value = entry.partition(":")
                if key.strip() == "license" and value.strip():
                    return {"license": value.strip()}
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    partial = folder / f".{MODEL_CARD}.partial"
    partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MODEL_CARD)


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("model_waiting", model=name, reason="another prepare works on it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
