"""Delete an organisation for good."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import HoneError
from operations.services import delete_organization


class Command(BaseCommand):
    """The last line of output is one JSON object: what was removed and what is kept (infra/docs/retention.md)."""

    help = "Delete an organisation and all that it owns, except its usage, its ledger and its audit trail"

    def add_arguments(self, parser: CommandParser) -> None:
        """What, by whom, and what of its work."""
        parser.add_argument("organization", help="its id, org_...")
        parser.add_argument("--confirm", required=True, metavar="NAME", help="the organisation's name, exactly")
        parser.add_argument("--by", required=True, help="who deletes it: goes into the audit trail")
        parser.add_argument("--cancel-work", action="store_true", help="revoke its keys and cancel its batches first")
        parser.add_argument("--wait", type=float, default=60, metavar="SECONDS", help="for its batches to end")

    def handle(self, *args: Any, **options: Any) -> None:
        """Delete and print."""
        try:
            deletion = delete_organization(
                wire_id=options["organization"],
                confirm=options["confirm"],
                by=options["by"],
                should_cancel_work=options["cancel_work"],
                wait_seconds=options["wait"],
            )
        except HoneError as error:
            raise CommandError(error.message) from error
        self.stdout.write(
            json.dumps(
                {
                    "organization_id": options["organization"],
                    "removed": deletion.removed,
                    "kept": deletion.kept,
                    "people": deletion.people,
                    "blobs": deletion.stored.blobs,
                    "bytes": deletion.stored.bytes,
                }
            )
        )
