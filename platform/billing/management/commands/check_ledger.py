"""Prove that the ledgers are right."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.selectors import find_discrepancies, ledger_size


class Command(BaseCommand):
    """Exit status 1, and one line per discrepancy, when they are not."""

    help = "Check that debits equal credits and balances are what postings and holds say"

    def handle(self, *args: Any, **options: Any) -> None:
        """Look at every organisation."""
        discrepancies = find_discrepancies()
        for discrepancy in discrepancies:
            self.stdout.write(discrepancy)
        size = ledger_size()
        checked = f"{size.organizations} organisations, {size.postings} postings"
        if discrepancies:
            raise CommandError(f"{len(discrepancies)} discrepancies in {checked}")
        self.stdout.write(f"The ledgers are right: {checked}")
