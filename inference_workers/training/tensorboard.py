"""TensorBoard's log files: one for each start of the trainer, without the host's name in it."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class TensorBoardLog:
    """Scalars by step."""

    def __init__(self, folder: Path, *, from_step: int) -> None:
        folder.mkdir(exist_ok=True)
        number = len(list(folder.iterdir())) + 1  # files are read in the order of their names
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{number:06d}.hone"))
        self._write(Event(file_version="brain.Event:2"))
        # Steps from here on are made again: what an earlier start has said of them is to be forgotten.
        self._write(Event(step=from_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a step."""
        tags = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=tags)))

    def close(self) -> None:
        """Write everything out."""
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def _tag(name: str) -> str:
    """``train_loss`` stands beside other numbers of training."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in ("train", "valid") else f"run/{name}"
