"""Adapters on this machine's disk, each under the digest of its files: fetched once, verified, the least used go first.

Whoever needs one holds it (:meth:`AdapterStore.hold`), so that neither room nor an order to drop it takes it away: an
engine may read the files again at any time.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from .client import ControlPlane
from .protocol import ADAPTER_CONFIG, ADAPTER_FILES, ADAPTER_WEIGHTS, AdapterRef, LeaseGrant

log = structlog.get_logger(__name__)


class AdapterDamaged(Exception):
    """What came is not what was announced."""


class AdapterStore:
    """A folder of adapters, shared by the engines of one agent."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._holds: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._doomed: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.partial"):
            shutil.rmtree(leftover)

    @property
    def addresses(self) -> list[str]:
        """Of all that is here and complete, the least used first."""
        folders = [path for path in self._folder.iterdir() if path.is_dir() and path.suffix != ".partial"]
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def folder_of(self, adapter: AdapterRef) -> Path:
        """Where its files are, or will be."""
        return self._folder / adapter.address

    async def fetch(self, control_plane: ControlPlane, grant: LeaseGrant, adapter: AdapterRef) -> Path:
        """The folder with the adapter of this lease's work, brought now if it is not here. Hold it before.

        Raises :class:`AdapterDamaged`, and what the control plane answers instead of bytes.
        """
        address, folder = adapter.address, self.folder_of(adapter)
        async with self._locks.setdefault(address, asyncio.Lock()):
            if folder.is_dir():
                os.utime(folder)
                return folder
            if adapter.files.keys() != set(ADAPTER_FILES):
                raise AdapterDamaged(f"an adapter has the files {', '.join(ADAPTER_FILES)} and no others")
            size = sum(file.bytes for file in adapter.files.values())
            if size > self._max_bytes:
                raise AdapterDamaged(f"it has {size} bytes, this node keeps adapters of {self._max_bytes} in all")
            self._make_room(size)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            started = time.monotonic()
            try:
                for path, file in adapter.files.items():
                    digest = await control_plane.download(
                        grant, f"adapter/{path}", partial / path, max_bytes=file.bytes
                    )
                    if digest != file.sha256:
                        raise AdapterDamaged(f"the bytes of {path} are not those of its checksum")
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        log.info("adapter_fetched", adapter=adapter.name, bytes=size, seconds=round(time.monotonic() - started, 2))
        return folder

    def hold(self, adapter: AdapterRef) -> None:
        """Somebody needs it."""
        self._holds[adapter.address] += 1

    def release(self, adapter: AdapterRef) -> None:
        """As :meth:`hold`, the other way round."""
        address = adapter.address
        self._holds[address] -= 1
        if self._holds[address] <= 0:
            del self._holds[address]
            if address in self._doomed:
                self.drop([address])

    def drop(self, addresses: Iterable[str]) -> None:
        """Delete what nobody may use any more; what is held goes when it is let go of."""
        for address in addresses:
            if address in self._holds:
                self._doomed.add(address)
                continue
            self._doomed.discard(address)
            if address in self.addresses:
                shutil.rmtree(self._folder / address)
                log.info("adapter_dropped", address=address)

    def _make_room(self, size: int) -> None:
        sizes = {
            address: sum(path.stat().st_size for path in (self._folder / address).iterdir())
            for address in self.addresses
        }
        total = sum(sizes.values())
        for address in [address for address in sizes if address not in self._holds]:
            if total + size <= self._max_bytes:
                return
            self.drop([address])
            total -= sizes[address]


def write_zero_adapter(folder: Path, modules: Mapping[str, Sequence[int]]) -> Path:
    """An adapter of rank 1 that changes nothing, on one of the base's modules (output and input size of each)."""
    name, (rows, columns) = next(iter(modules.items()))
    shapes = {"lora_A": (1, columns), "lora_B": (rows, 1)}
    header: dict[str, object] = {}
    end = 0
    for part, (height, width) in shapes.items():
        begin, end = end, end + 4 * height * width
        header[f"base_model.model.{name}.{part}.weight"] = {
            "dtype": "F32",
            "shape": [height, width],
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADAPTER_WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": [name.rpartition(".")[2]], "bias": "none"}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return folder
