"""What the commands that move money by hand share."""

import getpass
from abc import ABC, abstractmethod
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.models import Posting
from billing.selectors import balance
from common.errors import HoneError
from common.ids import uuid7
from common.money import format_usd
from tenants.scope import tenant_scope
from tenants.selectors import get_organization


class ByHandCommand(BaseCommand, ABC):
    """Which organisation, how much, why and who; prints the posting and the new balance."""

    amount_help: str

    def add_arguments(self, parser: CommandParser) -> None:
        """What every movement by hand must say."""
        parser.add_argument("organization_id", help="org_...")
        parser.add_argument("--usd", required=True, help=self.amount_help)
        parser.add_argument("--reason", required=True, help="shown to the customer in the ledger")
        parser.add_argument("--author", help="who decided, for the audit trail; the operating system's user otherwise")
        parser.add_argument("--key", help="natural key, such as a ticket: moved once, however often this is run")

    @abstractmethod
    def amount_nanos(self, usd: str) -> int:
        """The amount in nano-USD; ValueError when it is none."""

    @abstractmethod
    def move(self, *, organization_id: UUID, amount_nanos: int, reason: str, actor: str, key: str) -> Posting:
        """The service to call."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Move the money and say what is there now."""
        try:
            organization = get_organization(wire_id=options["organization_id"])
            with tenant_scope(organization.id):
                posting = self.move(
                    organization_id=organization.id,
                    amount_nanos=self.amount_nanos(options["usd"]),
                    reason=options["reason"],
                    actor=f"operator:{options['author'] or getpass.getuser()}",
                    key=f"operator:{options['key'] or uuid7().hex}",
                )
                found = balance(organization_id=organization.id)
        except (HoneError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"{posting.wire_id}: {organization.wire_id} has ${format_usd(found.available_nanos)} available, "
            f"${format_usd(found.held_nanos)} held, ${format_usd(found.spent_nanos)} spent"
        )
