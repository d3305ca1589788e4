"""``migrate``, as the role that owns the tables."""

from django.core.management.base import CommandParser
from django.core.management.commands import migrate

from common.database import OWNER


class Command(migrate.Command):
    """Django's command with another default database."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Everything Django's command takes."""
        super().add_arguments(parser)
        parser.set_defaults(database=OWNER)
