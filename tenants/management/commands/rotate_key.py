"""Replace an API key by another one with the same rights."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import HoneError
from tenants.selectors import get_key
from tenants.services import SYSTEM_ACTOR, rotate_key


class Command(BaseCommand):
    """The last line of output is the new key, for the only time."""

    help = "Make another API key with the same rights, and let the old one expire"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which key, and how long both are good."""
        parser.add_argument("public_id", help="the part between the second and the third underscore of the key")
        parser.add_argument("--overlap-hours", type=float, default=24, help="for how long the old key still works")

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate and print."""
        try:
            key = get_key(public_id=options["public_id"])
            issued = rotate_key(key=key, overlap=timedelta(hours=options["overlap_hours"]), actor=SYSTEM_ACTOR)
        except (HoneError, OverflowError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{key.wire_id} works for {options['overlap_hours']:g} more hours at most; instead of it:")
        self.stdout.write(issued.token)
