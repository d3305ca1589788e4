"""End an API key."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import HoneError
from tenants.selectors import get_key
from tenants.services import SYSTEM_ACTOR, revoke_key


class Command(BaseCommand):
    """Every process refuses the key within a second."""

    help = "End an API key at once, for good"

    def add_arguments(self, parser: CommandParser) -> None:
        """Which key."""
        parser.add_argument("public_id", help="the part between the second and the third underscore of the key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke."""
        try:
            key = get_key(public_id=options["public_id"])
        except HoneError as error:
            raise CommandError(error.message) from error
        revoke_key(key=key, actor=SYSTEM_ACTOR)
        self.stdout.write(f"{key.wire_id} is revoked")
