"""Drain a node before maintenance."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import HoneError
from fleet.services import set_draining


class Command(BaseCommand):
    """A draining node finishes what it holds and leases nothing new."""

    help = "Drain a node, or let it work again with --undo"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which node."""
        parser.add_argument("name")
        parser.add_argument("--undo", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        """Set the wish; the node hears it at its next heartbeat."""
        try:
            set_draining(name=options["name"], is_draining=not options["undo"])
        except HoneError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{options['name']} is {'active' if options['undo'] else 'draining'}")
