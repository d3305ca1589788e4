"""Print an organisation's ledger as CSV."""

import csv
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.selectors import statement
from common.errors import HoneError
from common.money import format_usd
from tenants.scope import tenant_scope
from tenants.selectors import get_organization

COLUMNS = ["id", "created_at", "kind", "debit", "credit", "amount_usd", "amount_nanos", "subject", "reason", "actor"]


class Command(BaseCommand):
    """One line per posting, oldest first; money went from ``debit`` to ``credit``."""

    help = "Print the postings of an organisation as CSV"

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose, and of which time."""
        parser.add_argument("organization_id", help="org_...")
        parser.add_argument("--since", type=moment, help="first day or moment, ISO 8601, UTC unless it says otherwise")
        parser.add_argument("--until", type=moment, help="the day or moment before which it ends")

    def handle(self, *args: Any, **options: Any) -> None:
        """Stream: a ledger may be longer than memory."""
        try:
            organization = get_organization(wire_id=options["organization_id"])
        except HoneError as error:
            raise CommandError(error.message) from error
        sheet = csv.writer(self.stdout, lineterminator="\n")
        sheet.writerow(COLUMNS)
        with tenant_scope(organization.id):
            postings = statement(
                organization_id=organization.id, since=options["since"], until=options["until"]
            ).order_by("id")
            for posting in postings.iterator(chunk_size=1_000):
                sheet.writerow(
                    [
                        posting.wire_id,
                        posting.created_at.isoformat(),
                        posting.kind,
                        posting.debit,
                        posting.credit,
                        format_usd(posting.amount_nanos),
                        posting.amount_nanos,
                        posting.subject,
                        posting.reason,
                        posting.actor,
                    ]
                )


def moment(text: str) -> datetime:
    """ISO 8601; argparse quotes this name where the text is something else."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
