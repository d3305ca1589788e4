"""The node's heartbeat: one call a second says how every model is and renews every lease."""

from __future__ import annotations

from collections.abc import Sequence

from . import protocol
from .batch import BatchRunner
from .client import ControlPlane
from .trainings import Trainings


class Heartbeat:
    """Of the node with that incarnation, whose models these runners work for, and which may train some of them."""

    def __init__(
        self,
        control_plane: ControlPlane,
        runners: Sequence[BatchRunner],
        *,
        incarnation: str,
        trainings: Trainings | None = None,
    ) -> None:
        self._control_plane, self._runners, self._incarnation = control_plane, runners, incarnation
        self._trainings = trainings

    async def beat(self, node_id: str) -> None:
        """Report, and hand the orders to the runners. Raises what the control plane answers instead of orders."""
        models = [runner.report() for runner in self._runners]
        leases = [lease for runner in self._runners for lease in runner.held()]
        if self._trainings is not None:
            models = [self._trainings.report(model) for model in models]
            leases += self._trainings.held()
        report = protocol.NodeReport(incarnation=self._incarnation, models=models, leases=leases)
        orders = await self._control_plane.heartbeat(node_id, report)
        if self._trainings is not None:
            self._trainings.obey(orders)
        for runner, model in zip(self._runners, models, strict=True):
            runner.obey(orders, reported=model.state)
