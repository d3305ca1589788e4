"""What an organisation has, and how a test changes it."""

from billing.selectors import balance
from billing.services import adjust_balance, grant_credit
from tenants.scope import tenant_scope
from tests.support.cast import Member


def money(member: Member) -> tuple[int, int, int]:
    """Available, held, spent."""
    with tenant_scope(member.organization.id):
        found = balance(organization_id=member.organization.id)
    return found.available_nanos, found.held_nanos, found.spent_nanos


def set_balance(member: Member, nanos: int, *, key: str = "set") -> None:
    """As if that were all the organisation has."""
    with tenant_scope(member.organization.id):
        organization_id = member.organization.id
        difference = nanos - balance(organization_id=organization_id).available_nanos
        adjust_balance(
            organization_id=organization_id, amount_nanos=difference, reason="for a test", actor="test", key=key
        )


def add_credit(member: Member, nanos: int) -> None:
    """Grant it, once in a test."""
    with tenant_scope(member.organization.id):
        grant_credit(
            organization_id=member.organization.id, amount_nanos=nanos, reason="for a test", actor="test", key="more"
        )
