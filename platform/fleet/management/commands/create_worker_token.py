"""Create the token that a node proves itself with."""

import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from fleet.selectors import find_worker_token
from fleet.services import create_worker_token


class Command(BaseCommand):
    """With ``--output`` the token goes into a file of mode 0600, and one that still works there is kept."""

    help = "Create a worker token"

    def add_arguments(self, parser: CommandParser) -> None:
        """Name and destination."""
        parser.add_argument("--name", required=True, help="what the token is for, for example the machine")
        parser.add_argument("--output", type=Path, help="file to write the token to instead of the terminal")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create, unless the file holds a live token."""
        output: Path | None = options["output"]
        if output is not None and output.exists() and find_worker_token(output.read_text().strip()):
            self.stdout.write(f"{output} holds a live token already")
            return
        token = create_worker_token(name=options["name"]).token
        if output is None:
            self.stdout.write(token)
            return
        temporary = output.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token)
        temporary.replace(output)
        self.stdout.write(f"token written to {output}")
