"""Money in tests: the services inside the scope they need, and damage that only a superior force could do."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from django.db import connections, transaction

from billing import services
from billing.selectors import Balance, balance
from common.database import OWNER
from common.errors import HoneError
from tenants.scope import tenant_scope
from tests.support.cast import Member


def books(member: Member) -> tuple[int, int, int]:
    """Available, held, spent, in nano-USD."""
    with tenant_scope(member.organization.id):
        found: Balance = balance(organization_id=member.organization.id)
    return found.available_nanos, found.held_nanos, found.spent_nanos


def hold(member: Member, job: str, amount_nanos: int, *, key: str = "hold") -> None:
    """Place a hold; the key is made unique to the job."""
    with tenant_scope(member.organization.id):
        services.place_hold(
            organization_id=member.organization.id, job=job, amount_nanos=amount_nanos, key=f"{key}:{job}"
        )


def try_hold(member: Member, job: str, amount_nanos: int, *, key: str = "hold") -> str:
    """As :func:`hold`; the code of the refusal, or ``held``."""
    try:
        hold(member, job, amount_nanos, key=key)
    except HoneError as error:
        return error.code
    return "held"


def settle(member: Member, job: str, amount_nanos: int, *, key: str) -> int:
    """Settle part of a hold."""
    with tenant_scope(member.organization.id):
        return services.settle_hold(
            organization_id=member.organization.id, job=job, amount_nanos=amount_nanos, key=f"{key}:{job}"
        )


def release(member: Member, job: str, amount_nanos: int | None = None, *, key: str = "release") -> int:
    """Release part of a hold, or all of it."""
    with tenant_scope(member.organization.id):
        return services.release_hold(
            organization_id=member.organization.id, job=job, amount_nanos=amount_nanos, key=f"{key}:{job}"
        )


def grant(member: Member, amount_nanos: int, *, key: str, reason: str = "Paid") -> UUID:
    """Give credit; the posting's id."""
    with tenant_scope(member.organization.id):
        return services.grant_credit(
            organization_id=member.organization.id, amount_nanos=amount_nanos, reason=reason, actor="operator:olga",
            key=key,
        ).id  # fmt: skip


def adjust(member: Member, amount_nanos: int, *, key: str, reason: str = "Corrected") -> UUID:
    """Correct a balance; the posting's id."""
    with tenant_scope(member.organization.id):
        return services.adjust_balance(
            organization_id=member.organization.id, amount_nanos=amount_nanos, reason=reason, actor="operator:olga",
            key=key,
        ).id  # fmt: skip


@contextmanager
def guards_off(table: str) -> Iterator[None]:
    """As if somebody had opened the database with a crowbar: the owner without the triggers of one table."""
    with transaction.atomic(using=OWNER), connections[OWNER].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
