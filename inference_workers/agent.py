"""The node agent: owns the engines of one machine and works for one control plane.

It is the only process of a node that an operator starts, and whatever it started ends with it. The control plane may
be away for minutes, the broker for ever, an engine may die at any moment: the agent goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from . import protocol
from .adapters import AdapterStore
from .batch import BatchRunner
from .client import ControlPlane, ControlPlaneError, NodeReplaced, NodeUnknown, ProtocolUnsupported
from .config import ConfigError, NodeConfig
from .doorbell import Doorbell
from .engine import Engine
from .heartbeat import Heartbeat
from .node import introduce
from .processes import reap_leftovers
from .trainings import Trainings, forget_runs

EXIT_REPLACED = 75
"""EX_TEMPFAIL of sysexits.h: another agent has the node's name now."""
EXIT_PROTOCOL = 78
"""EX_CONFIG: starting again will not help before agent or control plane are upgraded."""
REAP_GRACE_SECONDS = 5.0
GIVE_BACK_SECONDS = 8.0
"""How long a stopping agent tries to commit what has finished and to give its leases back."""
LOCK_SECONDS = 30.0
DROP_SECONDS = 30.0
"""Between two questions which adapters have been deleted."""
MAX_ADAPTERS = 1_000
"""That are asked about at once."""

log = structlog.get_logger(__name__)


async def run_agent(config: NodeConfig) -> int:
    """Serve until told to stop; the process's exit status."""
    config.require_connection()
    structlog.contextvars.bind_contextvars(node=config.name)
    async with _only_agent(config.run_folder):
        await reap_leftovers(config.run_folder, REAP_GRACE_SECONDS)
        forget_runs(config)
        control_plane = ControlPlane(config.control_plane_url, config.token)
        try:
            return await Agent(config, control_plane).run()
        finally:
            await control_plane.close()


class Agent:
    """Engines, their batch runners, trainings, the doorbell and the node's heartbeat."""

    def __init__(self, config: NodeConfig, control_plane: ControlPlane) -> None:
        self._control_plane, self._broker_url = control_plane, config.broker_url
        self._hello = introduce(config)
        self._node_id = ""
        self._engines = [
            Engine(model, config.model_folder(model), config.run_folder / f"{model.name}.process.json")
            for model in config.models
        ]
        self._adapters = AdapterStore(config.home / "adapters", max_bytes=config.adapter_cache_bytes)
        self._runners = {
            engine.model.name: BatchRunner(engine, control_plane, self._adapters, incarnation=self._hello.incarnation)
            for engine in self._engines
        }
        self._trainings = None
        if config.training is not None:
            self._trainings = Trainings(config, config.training, control_plane, incarnation=self._hello.incarnation)
        self._heartbeat = Heartbeat(
            control_plane,
            list(self._runners.values()),
            incarnation=self._hello.incarnation,
            trainings=self._trainings,
        )
        self._stopping, self._engines_changed = asyncio.Event(), asyncio.Event()
        for engine in self._engines:
            engine.on_change(self._engines_changed.set)

    async def run(self) -> int:
        """Work until a signal, or until the control plane has no use for this agent."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._handle_signal)
        tasks = [asyncio.create_task(engine.supervise()) for engine in self._engines]
        tasks.append(asyncio.create_task(self._work()))
        stopping = asyncio.create_task(self._stopping.wait())
        status = 0
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what ended it
            log.info("agent_stopping")
        except* ProtocolUnsupported as errors:
            log.error("protocol_unsupported", protocol=protocol.PROTOCOL_VERSION, errors=_texts(errors))
            status = EXIT_PROTOCOL
        except* NodeReplaced as errors:
            log.error("node_replaced", errors=_texts(errors))
            status = EXIT_REPLACED
        except* ControlPlaneError as errors:
            log.error("control_plane_refused", errors=_texts(errors))
            status = 1
        finally:
            seconds = GIVE_BACK_SECONDS if self._stopping.is_set() else 0
            await asyncio.gather(*(worker.stop(seconds) for worker in self._workers()))
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            log.info("agent_stopped", status=status)
        return status

    async def _work(self) -> None:
        heartbeat_seconds = await self._introduce()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_reporting(heartbeat_seconds))
            group.create_task(self._keep_dropping())
            for worker in self._workers():
                group.create_task(worker.run())
            group.create_task(self._listen())

    async def _introduce(self) -> float:
        welcome = await self._control_plane.hello(self._hello)
        self._node_id = welcome.node_id
        for worker in self._workers():
            worker.node_id, worker.poll_seconds = welcome.node_id, welcome.poll_seconds
        log.info("node_welcome", node_id=welcome.node_id)
        return welcome.heartbeat_seconds

    async def _keep_reporting(self, seconds: float) -> None:
        while True:
            self._engines_changed.clear()
            try:
                await self._heartbeat.beat(self._node_id)
            except NodeUnknown:
                seconds = await self._introduce()
                continue
            except (ProtocolUnsupported, NodeReplaced):
                raise
            except ControlPlaneError as error:
                log.warning("node_heartbeat_failed", error=str(error))
            with contextlib.suppress(TimeoutError):  # a change of state is reported at once
                await asyncio.wait_for(self._engines_changed.wait(), seconds)

    async def _keep_dropping(self) -> None:
        """Ask every now and then which of the adapters here have been deleted, and delete them, too."""
        while True:
            for start in range(0, len(addresses := self._adapters.addresses), MAX_ADAPTERS):
                inventory = protocol.AdapterInventory(
                    incarnation=self._hello.incarnation, addresses=addresses[start : start + MAX_ADAPTERS]
                )
                try:
                    orders = await self._control_plane.report_adapters(self._node_id, inventory)
                except ControlPlaneError as error:  # the heartbeat says what is to be done about it
                    log.warning("adapters_not_reported", error=str(error))
                    break
                for runner in self._runners.values():
                    await runner.drop_adapters(orders.drop)
                self._adapters.drop(orders.drop)
            await asyncio.sleep(DROP_SECONDS)

    async def _listen(self) -> None:
        """Wake whoever works for the model at every bell, until cancelled."""
        if not self._broker_url:
            log.info("doorbell_off", reason="no broker is configured: work is found by polling")
            return
        loop = asyncio.get_running_loop()

        def ring(model: str) -> None:
            if runner := self._runners.get(model):
                loop.call_soon_threadsafe(runner.wake)
                if self._trainings is not None:
                    loop.call_soon_threadsafe(self._trainings.wake)

        doorbell = Doorbell(self._broker_url, self._hello.name, ring)
        doorbell.start()
        try:
            await asyncio.Event().wait()
        finally:
            doorbell.stop()

    def _handle_signal(self) -> None:
        """The first signal: give everything back and end. The second: end."""
        if self._stopping.is_set():
            for engine in self._engines:
                engine.kill()
            if self._trainings is not None:
                self._trainings.kill()
            os._exit(1)
        self._stopping.set()

    def _workers(self) -> list[BatchRunner | Trainings]:
        """All who take leases."""
        trainings = [] if self._trainings is None else [self._trainings]
        return [*self._runners.values(), *trainings]


@asynccontextmanager
async def _only_agent(folder: Path) -> AsyncIterator[None]:
    """Two agents of one name on one machine would end each other's engines; the system drops a dead one's lock."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # nothing else runs yet
    deadline = asyncio.get_running_loop().time() + LOCK_SECONDS
    with (folder / "agent.lock").open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    raise ConfigError(
                        f"another agent of this name runs on this machine (it holds {handle.name})"
                    ) from None
            await asyncio.sleep(0.2)
        yield


def _texts(errors: BaseExceptionGroup[ControlPlaneError]) -> list[str]:
    texts = []
    for error in errors.exceptions:
        texts += _texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return texts
