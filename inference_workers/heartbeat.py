"""The node's heartbeat: one call a second says how every model is and renews every lease."""

from __future__ import annotations

from collections.abc import Sequence

from . import protocol
from .batch import BatchRunner
from .client import ControlPlane


class Heartbeat:
    """Of the node with that incarnation, whose models these runners work for."""

    def __init__(self, control_plane: ControlPlane, runners: Sequence[BatchRunner], *, incarnation: str) -> None:
        self._control_plane, self._runners, self._incarnation = control_plane, runners, incarnation

    async def beat(self, node_id: str) -> None:
        """Report, and hand the orders to the runners. Raises what the control plane answers instead of orders."""
        models = [runner.report() for runner in self._runners]
        report = protocol.NodeReport(
            incarnation=self._incarnation,
            models=models,
            leases=[lease for runner in self._runners for lease in runner.held()],
        )
        orders = await self._control_plane.heartbeat(node_id, report)
        for runner, model in zip(self._runners, models, strict=True):
            runner.obey(orders, reported=model.state)
