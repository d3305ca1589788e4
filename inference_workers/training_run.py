"""One training from its grant to its end: runs the trainer as a process of its own and carries what it writes.

The trainer (``python -m inference_workers.training FOLDER``) knows no control plane: it finds a folder and appends to
an event file. This side brings the folder, sends the events on in their order, puts the files of a checkpoint before
its event, and ends the process when the control plane wishes so. While the control plane is away the trainer goes on
and the events wait; whatever was not sent when this agent dies is trained again from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from . import protocol
from .client import ControlPlane, ControlPlaneError, FileDamaged, LeaseLost
from .config import NodeConfig, TrainingConfig
from .prepare import read_card
from .processes import ProcessTree, kill_session
from .training_files import RunFolder

LOOK_SECONDS = 0.5
"""Between two looks into the event file."""
DROP_GRACE_SECONDS = 0.5
"""Of a trainer whose work nobody wants any more."""
MEMBERS_SECONDS = 5.0

log = structlog.get_logger(__name__)


class TrainingRun:
    """The training of one lease."""

    def __init__(
        self, grant: protocol.LeaseGrant, control_plane: ControlPlane, node: NodeConfig, training: TrainingConfig
    ) -> None:
        self.grant = grant
        self.work = protocol.decode(protocol.TrainingWork, grant.work)
        self.tokens_per_second = 0.0
        self._control_plane, self._node, self._training = control_plane, node, training
        self._folder = RunFolder(node.run_folder / "training" / grant.id, epoch=grant.epoch)
        self._sent = self.work.events_seen
        self._tree: ProcessTree | None = None
        self._end: protocol.TrainingEvent | None = None  # done or failed
        self._failure: protocol.LeaseFailure | None = None
        self._wish, self._lost = asyncio.Event(), asyncio.Event()
        self._is_closing = False
        self._log = log.bind(
            lease=grant.id,
            job=self.work.job_id,
            organization_id=grant.organization_id,
            model=grant.model,
            epoch=grant.epoch,
        )

    async def run(self) -> None:
        """Work until the lease is completed, given back, or lost. Cancelling it drops the lease without a word."""
        self._log.info(
            "training_started", events_seen=self._sent, resumes_at=self.work.resume and self.work.resume.step
        )
        outcome = "dropped"
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._await_loss())
                await self._work_through()
                outcome = await self._close()
                watch.cancel()
        except* LeaseLost:
            outcome = "lost"
        except* (ControlPlaneError, protocol.MessageError, OSError) as errors:
            outcome = "refused"
            message = _text_of(errors)
            self._log.error("training_refused", error=message)
            await self._give_up(message)
        finally:
            await asyncio.shield(self._stop_trainer(DROP_GRACE_SECONDS))
            self._folder.remove()
            self._log.info("training_ended", outcome=outcome, events_sent=self._sent)

    def end(self, failure: protocol.LeaseFailure) -> None:
        """Let the trainer save a checkpoint, send on what there is, and give the lease back."""
        if self._failure is None:
            self._failure = failure
            self._wish.set()

    def obey(self, action: protocol.LeaseAction) -> None:
        """Do what the control plane wishes of the holder."""
        match action:
            case protocol.LeaseAction.CANCEL:
                self.kill()
                self.end(protocol.CANCELLED)
            case protocol.LeaseAction.PAUSE:
                self.end(protocol.PAUSED)
            case protocol.LeaseAction.LOST if not self._is_closing:  # else its end has just been noted
                self._lost.set()

    def kill(self) -> None:
        """End the trainer at once."""
        if self._tree is not None:
            kill_session(self._tree.pid)

    async def _work_through(self) -> None:
        """Until the trainer has ended and everything that it has written has been sent on."""
        model = self._node.folder_of(self.grant.model)
        card = read_card(model)
        if card is None or card["revision"] != self.work.base_revision:
            found = "is not on this machine" if card is None else f"is of revision {card['revision'][:12]} here"
            raise FileDamaged(f"{self.grant.model} {found}, the training is of {self.work.base_revision[:12]}")
        spec = self.work.spec | {"base_folder": str(model), "device": self._training.device}
        await self._folder.fill(self._control_plane, self.grant, self.work, spec)
        if self._failure is not None:
            return
        self._tree = await ProcessTree.start(
            trainer_command(self._training, self._folder.path),
            environment=trainer_environment(self._training),
            record=self._node.run_folder / f"training.{self.grant.id}.process.json",
        )
        self._log.info("trainer_started", pid=self._tree.pid)
        async with asyncio.TaskGroup() as group:
            output = group.create_task(self._forward_output(self._tree))
            stopping = group.create_task(self._stop_when_wished())
            while self._tree.exit_status is None:
                await self._send_on()
                self._tree.note_members()
                await self._tree.wait(LOOK_SECONDS)
            stopping.cancel()
            await self._stop_trainer(DROP_GRACE_SECONDS)  # whatever it has left behind
            await self._send_on()
            await self._put(self._folder.log_files())
            await output

    async def _send_on(self) -> None:
        """All that is new, the files of checkpoints and of the result before their events."""
        events: list[protocol.TrainingEvent] = []
        for event in self._folder.new_events():
            match event.kind:
                case protocol.TrainingEventKind.METRICS:
                    self.tokens_per_second = event.tokens_per_second
                case protocol.TrainingEventKind.CHECKPOINT:
                    event = await self._put_checkpoint(event)  # noqa: PLW2901  # what is sent for it
                case protocol.TrainingEventKind.DONE:
                    self._end = event
                    await self._put(self._folder.adapter_files())
                case protocol.TrainingEventKind.FAILED:
                    self._end = event
            events.append(event)
            if len(events) == protocol.MAX_EVENTS or event.kind is protocol.TrainingEventKind.CHECKPOINT:
                await self._send(events)
                events = []
        if events:
            await self._send(events)

    async def _send(self, events: list[protocol.TrainingEvent]) -> None:
        numbered = [dataclasses.replace(event, seq=self._sent + index) for index, event in enumerate(events, start=1)]
        await self._control_plane.send_events(self.grant, protocol.TrainingEvents(events=numbered))
        self._sent += len(events)

    async def _put_checkpoint(self, event: protocol.TrainingEvent) -> protocol.TrainingEvent:
        try:
            await self._put(self._folder.checkpoint_files(event.step) | self._folder.log_files())
        except FileNotFoundError:
            if not event.interim:
                raise
            # The trainer keeps two of them; while the control plane was away it has made others.
            text = f"The interim checkpoint of step {event.step} was not kept."
            return protocol.TrainingEvent(seq=event.seq, kind=protocol.TrainingEventKind.MESSAGE, message=text)
        return event

    async def _put(self, files: Mapping[str, Path]) -> None:
        for path, file in files.items():
            await self._control_plane.put_file(self.grant, path, file)

    async def _stop_when_wished(self) -> None:
        await self._wish.wait()
        self._log.info("trainer_stopping", reason=self._failure and self._failure.code)
        await self._stop_trainer(self._training.stop_seconds)

    async def _stop_trainer(self, grace_seconds: float) -> None:
        if self._tree is not None:
            await self._tree.stop(grace_seconds)

    async def _await_loss(self) -> None:
        await self._lost.wait()
        raise LeaseLost("the control plane says so")

    async def _close(self) -> str:
        self._is_closing = True
        if self._end is not None and self._end.kind is protocol.TrainingEventKind.DONE:
            await self._control_plane.complete(self.grant)
            return "completed"
        failure = self._failure or self._judge()
        await self._control_plane.fail(self.grant, failure)
        return failure.code

    def _judge(self) -> protocol.LeaseFailure:
        """Why the trainer has ended although nobody wished it."""
        status = self._tree.exit_status if self._tree else None
        if self._end is None:
            return protocol.LeaseFailure(code="trainer_died", message=f"The trainer ended with status {status}")
        is_ours = self._end.code == "internal_error"
        return protocol.LeaseFailure(code=self._end.code, message=self._end.message, retryable=is_ours)

    async def _give_up(self, message: str) -> None:
        """Let another claim try, perhaps on another node."""
        with contextlib.suppress(ControlPlaneError):
            await self._control_plane.fail(self.grant, protocol.LeaseFailure(code="worker_error", message=message))

    async def _forward_output(self, tree: ProcessTree) -> None:
        async for text in tree.lines():
            self._log.info("trainer_log", line=text[:500])


def _text_of(errors: BaseExceptionGroup[Exception]) -> str:
    first = errors.exceptions[0]
    return _text_of(first) if isinstance(first, BaseExceptionGroup) else f"{type(first).__name__}: {first}"


def trainer_command(training: TrainingConfig, folder: Path) -> list[str]:
    """The argument vector."""
    return [*(training.launcher or (sys.executable,)), "-m", "inference_workers.training", str(folder)]


def trainer_environment(training: TrainingConfig, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of the agent's own environment everything but its secrets, then what the configuration says."""
    inherited = {key: value for key, value in environ.items() if not key.startswith("HONE_")}
    threads = {"OMP_NUM_THREADS": str(training.threads)} if training.threads else {}
    return inherited | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | threads | training.environment
