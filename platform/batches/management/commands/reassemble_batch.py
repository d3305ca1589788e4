"""Write the files of a batch again, once what stood in the way has been cured."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from batches.closing import reassemble_batch
from common.errors import HoneError


class Command(BaseCommand):
    """For a batch whose accounts disagreed, or whose files could not be written."""

    help = "Queue the assembly of a held or failed batch again"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which batch."""
        parser.add_argument("batch_id")

    def handle(self, *args: Any, **options: Any) -> None:
        """Queue; a control worker does it."""
        try:
            batch = reassemble_batch(wire_id=options["batch_id"])
        except HoneError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{batch.wire_id} is {batch.status} again")
