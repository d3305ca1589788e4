"""Write everything that an organisation owns to a folder."""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import HoneError
from operations.export import export_organization


class Command(BaseCommand):
    """The output is the manifest, which also stands in the folder (infra/docs/retention.md)."""

    help = "Export an organisation's rows and files"

    def add_arguments(self, parser: CommandParser) -> None:
        """What and where to."""
        parser.add_argument("organization", help="its id, org_...")
        parser.add_argument("--output", required=True, type=Path, help="a folder that is empty or not there yet")

    def handle(self, *args: Any, **options: Any) -> None:
        """Export and print."""
        try:
            manifest = export_organization(wire_id=options["organization"], folder=options["output"])
        except (HoneError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps(manifest))
