"""The folder of one training: what the trainer finds in it, and what is taken from it.

A claim begins with an empty folder: what an earlier one has reached comes back from the control plane, which alone
knows what it has of it. So the events of a folder are numbered from where the control plane stands.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import protocol
from .client import ControlPlane

EVENTS = "events.ndjson"
SPEC = "spec.json"
ADAPTER = "adapter"
LOGS = "logs"


class RunFolder:
    """Of the training that a grant is about; holds a customer's data, hence private to this user."""

    def __init__(self, path: Path, *, epoch: int) -> None:
        self.path, self._epoch = path, epoch
        self._read_to = 0

    async def fill(
        self, control_plane: ControlPlane, grant: protocol.LeaseGrant, work: protocol.TrainingWork, spec: dict[str, Any]
    ) -> None:
        """Everything that the trainer needs. Raises what :meth:`ControlPlane.fetch_file` does."""
        self.remove()
        self.path.mkdir(parents=True, mode=0o700)
        for name, wanted in work.inputs.items():
            await control_plane.fetch_file(grant, f"inputs/{name}", self._place(name), wanted)
        if work.resume is not None:
            folder = f"checkpoints/step-{work.resume.step}"
            for name, wanted in work.resume.files.items():
                place = self._place(f"{folder}/{name}")
                await control_plane.fetch_file(grant, f"artifacts/{folder}/{name}", place, wanted)
        (self.path / SPEC).write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")

    def new_events(self) -> Iterator[protocol.TrainingEvent]:
        """What the trainer has written since the last call, whole lines alone; :class:`protocol.MessageError`."""
        try:
            with (self.path / EVENTS).open("rb") as stream:
                stream.seek(self._read_to)
                lines = stream.read().split(b"\n")
        except FileNotFoundError:
            return
        for line in lines[:-1]:
            self._read_to += len(line) + 1
            try:
                value = json.loads(line)
            except ValueError as error:
                raise protocol.MessageError(f"the trainer's events are not JSON: {error}") from error
            yield protocol.decode(protocol.TrainingEvent, value)

    def checkpoint_files(self, step: int) -> dict[str, Path]:
        """By the path under which the control plane keeps them."""
        names = (*protocol.ADAPTER_FILES, *protocol.STATE_FILES)
        return {f"checkpoints/step-{step}/{name}": self.path / "checkpoints" / f"step-{step}" / name for name in names}

    def adapter_files(self) -> dict[str, Path]:
        """The trained adapter, by the same."""
        return {f"{ADAPTER}/{name}": self.path / ADAPTER / name for name in protocol.ADAPTER_FILES}

    def log_files(self) -> dict[str, Path]:
        """What the trainer has logged for TensorBoard, by the same; in the order of the claims it is read."""
        logs = [path for path in sorted((self.path / LOGS).glob("*")) if path.is_file()]
        return {f"{LOGS}/{self._epoch:06d}.{path.name}": path for path in logs}

    def remove(self) -> None:
        """Delete it with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _place(self, name: str) -> Path:
        """Where a file of that name goes, which comes from elsewhere and must stay within the folder."""
        place = (self.path / name).resolve()
        if not place.is_relative_to(self.path.resolve()):
            raise protocol.MessageError(f"{name!r} is no name of a file in a run's folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place
