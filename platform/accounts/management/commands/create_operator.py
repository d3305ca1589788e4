"""Make the first operator of an installation."""

import getpass
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from accounts.services import create_operator
from common.errors import HoneError
from common.ids import to_wire


class Command(BaseCommand):
    """``create_operator --email E``: asks for the password, or reads it from standard input that is no terminal."""

    help = "Create an operator, or make an existing user one"

    def add_arguments(self, parser: CommandParser) -> None:
        """Never the password itself: arguments are visible to every user of the machine."""
        parser.add_argument("--email", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        """Create and say so."""
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
        try:
            user = create_operator(email=options["email"], password=password)
        except HoneError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{user.email} is an operator ({to_wire(User.ID_PREFIX, user.id)})")
