"""Show the fleet."""

from typing import Any

from django.core.management.base import BaseCommand

from fleet.models import Node
from fleet.selectors import NODE_UP_SECONDS, list_nodes
from inference_workers.protocol import ModelReport, decode

HEADINGS = ("NODE", "SEEN", "STATE", "MODEL", "MODEL STATE", "IN FLIGHT", "TOKENS/S", "MESSAGE")


class Command(BaseCommand):
    """One line for each model of each node, as the node last reported it."""

    help = "Show nodes, when they were last heard, and how their models are"

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the table."""
        lines = [HEADINGS, *(line for node, silence in list_nodes() for line in _lines(node, silence))]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
        for line in lines:
            self.stdout.write("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _lines(node: Node, silence: float) -> list[tuple[str, ...]]:
    state = "silent" if silence > NODE_UP_SECONDS else "draining" if node.is_draining else "active"
    reports = [decode(ModelReport, report) for report in node.model_reports]
    return [
        (
            node.name,
            f"{silence:.0f} s ago",
            state,
            report.name,
            report.state,
            f"{report.in_flight} of {report.in_flight_limit}",
            f"{report.tokens_per_second:.1f}",
            report.message,
        )
        for report in reports
    ]
