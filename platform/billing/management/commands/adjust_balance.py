"""Correct an organisation's balance."""

from uuid import UUID

from billing.management.by_hand import ByHandCommand
from billing.models import Posting
from billing.services import adjust_balance
from common.money import parse_usd


class Command(ByHandCommand):
    """``adjust_balance org_... --usd=-3.50 --reason "Credited twice"``."""

    help = "Correct what an organisation may spend, upwards or downwards, never below zero"
    amount_help = "how much, in US dollars, with a minus to take away: 3.50 or -3.50"

    def amount_nanos(self, usd: str) -> int:
        """With its sign."""
        nanos = parse_usd(usd.removeprefix("-"))
        return -nanos if usd.startswith("-") else nanos

    def move(self, *, organization_id: UUID, amount_nanos: int, reason: str, actor: str, key: str) -> Posting:
        """Adjust."""
        return adjust_balance(
            organization_id=organization_id, amount_nanos=amount_nanos, reason=reason, actor=actor, key=key
        )
