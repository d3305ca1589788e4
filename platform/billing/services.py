"""Writes of money. Amounts are nano-USD.

Every movement has a natural key, unique in the organisation: to post it again moves nothing and answers as the first
time; a key that stands for another movement is a ``conflict``.

All functions but :func:`open_organization` and :func:`found_organization` are called inside the organisation's
``tenant_scope`` and join its transaction. Billing comes last in the order of locks: lease, shard, batch, then the
hold's row, then the accounts. They stay locked until the scope ends and every other movement of the organisation waits
for them, so move money last. One transaction moves the hold of one job; credit and adjustments have a transaction of
their own.
"""

from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from accounts.models import User
from billing.models import Account, Hold, Posting
from billing.watchers import announce_credit
from common.database import SYSTEM
from common.errors import HoneError
from common.ids import to_wire, uuid7
from common.money import MAX_NANOS, format_usd
from tenants.idempotency import Attempt, earlier_organization, made_by, remember
from tenants.models import Organization
from tenants.scope import tenant_scope
from tenants.selectors import owned_organizations
from tenants.services import SYSTEM_ACTOR, NewOrganization, create_organization, record, session_key

logger = structlog.get_logger(__name__)

AVAILABLE, HELD, SPENT, GRANTED = (
    Account.Kind.AVAILABLE,
    Account.Kind.HELD,
    Account.Kind.SPENT,
    Account.Kind.GRANTED,
)

# Not the ORM: with ON CONFLICT a repeat, even one at the same moment, neither moves money nor breaks the transaction.
_POST = """
INSERT INTO billing_posting (id, organization_id, kind, debit, credit, amount_nanos, key, subject, reason, actor)
VALUES (%(id)s, %(organization)s, %(kind)s, %(debit)s, %(credit)s, %(amount)s, %(key)s, %(subject)s, %(reason)s,
    %(actor)s)
ON CONFLICT (organization_id, key) DO NOTHING
"""

# Once with every segment of every batch, hence one statement: what the hold has left is read under its lock.
_TAKE_FROM_HOLD = """
WITH hold AS (
    SELECT remaining_nanos FROM billing_hold WHERE organization_id = %(organization)s AND job = %(job)s
    FOR NO KEY UPDATE
)
INSERT INTO billing_posting (id, organization_id, kind, debit, credit, amount_nanos, key, subject, reason, actor)
SELECT %(id)s, %(organization)s, %(kind)s, 'held', %(credit)s, least(%(amount)s, remaining_nanos), %(key)s, %(job)s,
    '', ''
FROM hold WHERE remaining_nanos > 0
ON CONFLICT (organization_id, key) DO NOTHING
RETURNING amount_nanos
"""


def place_hold(*, organization_id: UUID, job: str, amount_nanos: int, key: str) -> None:
    """Reserve money for a job (its wire id): available -> held. With another key the job's hold grows.

    ``insufficient_quota`` where less is available, ``conflict`` where the hold has been closed; nothing changes then.
    """
    if amount_nanos == 0:
        return
    posting = Posting(
        organization_id=organization_id,
        kind=Posting.Kind.HOLD,
        debit=AVAILABLE,
        credit=HELD,
        amount_nanos=amount_nanos,
        key=key,
        subject=job,
    )
    with transaction.atomic():  # a refusal takes a new hold back even where the caller's transaction goes on
        hold, _ = Hold.objects.select_for_update(no_key=True).get_or_create(organization_id=organization_id, job=job)
        available = _lock_accounts(organization_id).get(AVAILABLE, 0)
        if available >= amount_nanos and hold.released_at is None:
            _post(posting)
        elif not _is_posted(posting):
            if hold.released_at is not None:
                raise HoneError("conflict", f"The money held for {job} has been released; it takes no more")
            raise _insufficient(needed=amount_nanos, available=available)


def settle_hold(*, organization_id: UUID, job: str, amount_nanos: int, key: str) -> int:
    """Pay for finished work of a job: held -> spent. How much was paid: never more than the hold has left.

    An excess is logged as an error and nobody's debt; what the job's own accounts say then must stop the job.
    """
    if amount_nanos == 0:
        return 0
    settled = _take_from_hold(
        organization_id=organization_id, job=job, amount_nanos=amount_nanos, key=key,
        kind=Posting.Kind.SETTLEMENT, credit=SPENT,
    )  # fmt: skip
    if settled < amount_nanos:
        logger.error("a hold did not cover the work", job=job, key=key, needed=amount_nanos, settled=settled)
    return settled


def release_hold(*, organization_id: UUID, job: str, key: str, amount_nanos: int | None = None) -> int:
    """Give back what a job will not need: held -> available, at most what is left. How much was given back.

    Without an amount it is all, and the hold is closed.
    """
    if amount_nanos == 0:
        return 0
    released = _take_from_hold(
        organization_id=organization_id, job=job, amount_nanos=amount_nanos, key=key,
        kind=Posting.Kind.RELEASE, credit=AVAILABLE,
    )  # fmt: skip
    if amount_nanos is None:
        Hold.objects.filter(job=job, remaining_nanos=0, released_at=None).update(released_at=Now())
    return released


def grant_credit(*, organization_id: UUID, amount_nanos: int, reason: str, actor: str, key: str) -> Posting:
    """Give an organisation money to spend. Who waits for it is told after the commit (:mod:`billing.watchers`)."""
    return _move_by_hand(
        Posting(
            organization_id=organization_id,
            kind=Posting.Kind.CREDIT,
            debit=GRANTED,
            credit=AVAILABLE,
            amount_nanos=amount_nanos,
            key=key,
            reason=reason,
            actor=actor,
        ),
        action="credit.granted",
    )


def adjust_balance(*, organization_id: UUID, amount_nanos: int, reason: str, actor: str, key: str) -> Posting:
    """Correct what an organisation may spend, upwards or (a negative amount) downwards, never below zero."""
    debit, credit = (GRANTED, AVAILABLE) if amount_nanos > 0 else (AVAILABLE, GRANTED)
    return _move_by_hand(
        Posting(
            organization_id=organization_id,
            kind=Posting.Kind.ADJUSTMENT,
            debit=debit,
            credit=credit,
            amount_nanos=abs(amount_nanos),
            key=key,
            reason=reason,
            actor=actor,
        ),
        action="balance.adjusted",
    )


def found_organization(*, name: str, founder: User, attempt: Attempt) -> NewOrganization | Organization:
    """A new organisation of a person who has signed up; a repetition gets the organisation of the first try, alone.

    The first that a person ever founds opens with ``HONE_SIGNUP_CREDIT_USD``. ``conflict`` for a person who owns as
    many as ``HONE_ORGANIZATIONS_PER_OWNER``, ``invalid_session`` for one who is gone.
    """
    with transaction.atomic(using=SYSTEM):
        # One at a time for each person. The membership's foreign key, checked on another connection, passes this lock.
        person = User.objects.select_for_update(no_key=True).filter(id=founder.id).first()
        if person is None:
            raise HoneError("invalid_session", "The account has been deleted")
        earlier = earlier_organization(attempt, founder=person)
        if earlier is not None:
            return earlier
        if owned_organizations(user=person) >= settings.ORGANIZATIONS_PER_OWNER:
            raise HoneError("conflict", f"One person may own {settings.ORGANIZATIONS_PER_OWNER} organisations")
        credit_nanos = settings.SIGNUP_CREDIT_NANOS if person.signup_credit_at is None else 0
        made = open_organization(
            name=name, owner_email=person.email, credit_nanos=credit_nanos, actor=person.wire_id, attempt=attempt
        )
        if credit_nanos:
            # Committed after the ledger is: who is killed in between gives credit twice, and takes it from nobody.
            User.objects.filter(id=person.id).update(signup_credit_at=Now())
    return made


def open_organization(
    *,
    name: str,
    owner_email: str,
    credit_nanos: int = 0,
    actor: str = SYSTEM_ACTOR,
    attempt: Attempt | None = None,
) -> NewOrganization:
    """A new organisation (:func:`tenants.services.create_organization`) whose ledger opens with this credit."""
    organization_id = uuid7()
    with tenant_scope(organization_id):
        made = create_organization(
            organization_id=organization_id, name=name, owner_email=owner_email, actor=actor
        )  # fmt: skip
        if attempt is not None:
            key = session_key(membership=made.membership, project=None)
            remember(made_by(key, attempt), made.organization)
        if credit_nanos:
            grant_credit(
                organization_id=organization_id, amount_nanos=credit_nanos, reason="Opening credit",
                actor=SYSTEM_ACTOR, key="opening",
            )  # fmt: skip
    return made


def _take_from_hold(
    *,
    organization_id: UUID,
    job: str,
    amount_nanos: int | None,
    key: str,
    kind: Posting.Kind,
    credit: Account.Kind,
) -> int:
    """Move an amount (all, when None), or what is left of the hold; how much this key has moved."""
    with connection.cursor() as cursor:
        cursor.execute(
            _TAKE_FROM_HOLD,
            {
                "id": uuid7(),
                "organization": organization_id,
                "kind": kind,
                "credit": credit,
                "amount": amount_nanos,
                "key": key,
                "job": job,
            },
        )
        row = cursor.fetchone()
    if row is not None:
        moved: int = row[0]
        return moved
    # Nothing was left to take, or this key has taken it before.
    earlier = Posting.objects.filter(key=key).first()
    if earlier is None:
        return 0
    if (earlier.kind, earlier.subject) != (kind, job):
        raise _key_taken(key)
    return earlier.amount_nanos


def _move_by_hand(posting: Posting, *, action: str) -> Posting:
    if not 0 < posting.amount_nanos <= MAX_NANOS:
        raise HoneError("invalid_value", f"An amount is more than zero, up to ${format_usd(MAX_NANOS)}", param="amount")
    for field, limit in (("reason", 500), ("key", 200), ("actor", 80)):
        value = getattr(posting, field)
        if not 0 < len(value) <= limit or not value.isprintable() or value.isspace():
            raise HoneError("invalid_value", f"'{field}' must have 1 to {limit} printable characters", param=field)
    balances = _lock_accounts(posting.organization_id)
    if _is_posted(posting):
        return Posting.objects.get(key=posting.key)
    if posting.debit == AVAILABLE and balances.get(AVAILABLE, 0) < posting.amount_nanos:
        raise _insufficient(needed=posting.amount_nanos, available=balances.get(AVAILABLE, 0))
    if posting.debit == GRANTED and balances.get(GRANTED, 0) - posting.amount_nanos < -MAX_NANOS:
        raise HoneError("invalid_value", f"A ledger holds at most ${format_usd(MAX_NANOS)}", param="amount")
    if _post(posting):
        record(
            actor=posting.actor,
            action=action,
            subject=to_wire(Organization.ID_PREFIX, posting.organization_id),
            organization_id=posting.organization_id,
            details={
                "posting": posting.wire_id,
                "amount_nanos": posting.amount_nanos if posting.credit == AVAILABLE else -posting.amount_nanos,
                "reason": posting.reason,
            },
        )
        if posting.credit == AVAILABLE:
            announce_credit(organization_id=posting.organization_id)
    return Posting.objects.get(key=posting.key)


def _lock_accounts(organization_id: UUID) -> dict[str, int]:
    """The balances, locked until the scope ends; empty before the first posting."""
    # *available* sorts first: like the trigger that moves them, whoever has its lock has them all.
    accounts = Account.objects.select_for_update(no_key=True).filter(organization_id=organization_id)
    return dict(accounts.order_by("kind").values_list("kind", "balance_nanos"))


def _post(posting: Posting) -> bool:
    """Move the money; False when this very movement has been posted before."""
    with connection.cursor() as cursor:
        cursor.execute(
            _POST,
            {
                "id": posting.id,
                "organization": posting.organization_id,
                "kind": posting.kind,
                "debit": posting.debit,
                "credit": posting.credit,
                "amount": posting.amount_nanos,
                "key": posting.key,
                "subject": posting.subject,
                "reason": posting.reason,
                "actor": posting.actor,
            },
        )
        return cursor.rowcount == 1 or not _is_posted(posting)


def _is_posted(posting: Posting) -> bool:
    """Whether this very movement has been posted before; ``conflict`` where its key stands for another one."""
    earlier = Posting.objects.filter(key=posting.key).first()
    if earlier is None:
        return False
    if any(
        getattr(earlier, field) != getattr(posting, field)
        for field in ("kind", "debit", "credit", "amount_nanos", "subject")
    ):
        raise _key_taken(posting.key)
    return True


def _key_taken(key: str) -> HoneError:
    return HoneError("conflict", f"The key '{key}' has been used for another movement of money", param="key")


def _insufficient(*, needed: int, available: int) -> HoneError:
    return HoneError(
        "insufficient_quota",
        f"This needs ${format_usd(needed)} and ${format_usd(available)} is available; add credit, then try again",
    )
