"""All trainings of one node: asks for them, as many as the node may run at a time, whatever its engines do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil

import structlog

from . import protocol
from .client import ControlPlane, ControlPlaneError, NodeReplaced, ProtocolUnsupported, Unauthorized
from .config import NodeConfig, TrainingConfig
from .prepare import read_card
from .training_run import TrainingRun

UNAUTHORIZED_POLL_SECONDS = 30.0

log = structlog.get_logger(__name__)


class Trainings:
    """Of a node whose configuration has a ``[training]`` table."""

    def __init__(
        self, node: NodeConfig, training: TrainingConfig, control_plane: ControlPlane, *, incarnation: str
    ) -> None:
        self.node_id = ""
        self.poll_seconds = 1.0
        self._node, self._training = node, training
        self._control_plane, self._incarnation = control_plane, incarnation
        self._is_announced, self._draining, self._stopping = False, False, False
        self._runs: dict[TrainingRun, asyncio.Task[None]] = {}
        self._pace: dict[str, float] = {}
        self._bell, self._change = asyncio.Event(), asyncio.Event()

    def wake(self) -> None:
        """Ask for work now: somebody said that there is some."""
        self._bell.set()

    def report(self, model: protocol.ModelReport) -> protocol.ModelReport:
        """The report of a model, with what there is to say of its trainings."""
        for run in self._runs:
            if run.tokens_per_second:
                self._pace[run.grant.model] = run.tokens_per_second
        return dataclasses.replace(
            model,
            trains=self._is_prepared(model.name),
            training_tokens_per_second=round(self._pace.get(model.name, 0.0), 1),
        )

    def held(self) -> list[protocol.HeldLease]:
        """The leases to be renewed."""
        return [protocol.HeldLease(id=run.grant.id, epoch=run.grant.epoch) for run in self._runs]

    def obey(self, orders: protocol.NodeOrders) -> None:
        """Follow the answer to a report."""
        for run in self._runs:
            run.obey(orders.leases.get(run.grant.id, protocol.LeaseAction.CONTINUE))
        self._draining = orders.drain
        self._is_announced = True
        self._change.set()

    async def run(self) -> None:
        """Until cancelled. Raises what the agent as a whole must answer: node replaced, protocol unsupported."""
        while True:
            self._bell.clear()
            self._change.clear()
            if not self._may_lease():
                await self._change.wait()
            elif pause := await self._try_to_lease():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._bell.wait(), pause)

    async def stop(self, seconds: float) -> None:
        """Let the trainers save what they have and give every lease back; after that time drop what is left."""
        self._stopping = True
        for run in self._runs:
            run.end(protocol.LeaseFailure(code="node_stopped", message="the node was stopped"))
        tasks = list(self._runs.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def kill(self) -> None:
        """End every trainer at once; only for an agent that ends in the same moment."""
        for run in self._runs:
            run.kill()

    def _is_prepared(self, model: str) -> bool:
        return model in self._training.models and read_card(self._node.folder_of(model)) is not None

    def _may_lease(self) -> bool:
        is_free = len(self._runs) < self._training.max_concurrent
        return is_free and self._is_announced and not self._draining and not self._stopping

    async def _try_to_lease(self) -> float:
        """Ask for work once; seconds after which it makes sense to ask again, unless a bell says so before."""
        try:
            return 0.0 if await self._lease() else self.poll_seconds
        except Unauthorized as error:
            log.error("worker_token_refused", error=str(error))
            return UNAUTHORIZED_POLL_SECONDS
        except (ProtocolUnsupported, NodeReplaced):
            raise
        except ControlPlaneError as error:
            log.warning("no_training", error=str(error))
            return self.poll_seconds

    async def _lease(self) -> bool:
        models = [model for model in self._training.models if self._is_prepared(model)]
        request = protocol.LeaseRequest(
            incarnation=self._incarnation, kinds=[protocol.LeaseKind.TRAINING], models=models
        )
        grant = await self._control_plane.request_lease(self.node_id, request) if models else None
        if grant is None:
            return False
        if self._stopping:
            return True  # nobody will work on it: it expires, and another claim takes it
        try:
            run = TrainingRun(grant, self._control_plane, self._node, self._training)
        except protocol.MessageError as error:
            log.error("grant_not_understood", lease=grant.id, error=str(error))
            await self._control_plane.fail(grant, protocol.LeaseFailure(code="worker_error", message=str(error)))
            return False
        task = asyncio.create_task(run.run())
        self._runs[run] = task
        task.add_done_callback(lambda task: self._run_ended(run, task))
        return True

    def _run_ended(self, run: TrainingRun, task: asyncio.Task[None]) -> None:
        del self._runs[run]
        self._change.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("training_crashed", lease=run.grant.id, exc_info=error)


def forget_runs(node: NodeConfig) -> None:
    """Delete the folders that an agent which died has left; their trainers have been ended."""
    shutil.rmtree(node.run_folder / "training", ignore_errors=True)
