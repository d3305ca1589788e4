"""Create an organisation with its first project and keys."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.services import open_organization
from common.errors import HoneError
from common.money import parse_usd


class Command(BaseCommand):
    """The last line of output is one JSON object: ids and, for the only time, the two keys."""

    help = "Create an organisation, its owner, a project, a project key and an admin key"

    def add_arguments(self, parser: CommandParser) -> None:
        """What the organisation starts with."""
        parser.add_argument("--name", required=True)
        parser.add_argument("--owner-email", required=True)
        parser.add_argument("--credit-usd", default="0", help="prepaid credit in US dollars, for example 25 or 0.50")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create and print."""
        try:
            made = open_organization(
                name=options["name"],
                owner_email=options["owner_email"],
                credit_nanos=parse_usd(options["credit_usd"]),
            )
        except (HoneError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            json.dumps(
                {
                    "organization_id": made.organization.wire_id,
                    "project_id": made.project.wire_id,
                    "api_key": made.api_key.token,
                    "admin_key": made.admin_key.token,
                }
            )
        )
