"""Give an organisation credit."""

from uuid import UUID

from billing.management.by_hand import ByHandCommand
from billing.models import Posting
from billing.services import grant_credit
from common.money import parse_usd


class Command(ByHandCommand):
    """``grant_credit org_... --usd 25 --reason "Invoice 17 was paid"``."""

    help = "Add prepaid credit to an organisation's ledger"
    amount_help = "how much, in US dollars: 25 or 0.50"

    def amount_nanos(self, usd: str) -> int:
        """Credit is never negative."""
        return parse_usd(usd)

    def move(self, *, organization_id: UUID, amount_nanos: int, reason: str, actor: str, key: str) -> Posting:
        """Grant."""
        return grant_credit(
            organization_id=organization_id, amount_nanos=amount_nanos, reason=reason, actor=actor, key=key
        )
