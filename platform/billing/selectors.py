"""Reads about money, and the proof that the ledger is right. Amounts are nano-USD."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connections
from django.db.models import QuerySet, Sum

from billing.models import Account, Posting
from common.database import SYSTEM
from common.ids import to_wire
from common.money import format_usd
from tenants.models import Organization

# One statement, so that it compares what belongs together at one moment, whatever is being posted meanwhile.
_DISCREPANCIES = """
WITH posting AS NOT MATERIALIZED (
    SELECT * FROM billing_posting WHERE %(organization)s IS NULL OR organization_id = %(organization)s
), account AS NOT MATERIALIZED (
    SELECT * FROM billing_account WHERE %(organization)s IS NULL OR organization_id = %(organization)s
), hold AS NOT MATERIALIZED (
    SELECT * FROM billing_hold WHERE %(organization)s IS NULL OR organization_id = %(organization)s
), moved AS (
    SELECT organization_id, kind, sum(amount) AS amount FROM (
        SELECT organization_id, credit AS kind, amount_nanos AS amount FROM posting
        UNION ALL SELECT organization_id, debit, -amount_nanos FROM posting
    ) side GROUP BY organization_id, kind
), moved_by_job AS (
    SELECT organization_id, subject AS job,
        sum(CASE WHEN credit = 'held' THEN amount_nanos ELSE -amount_nanos END) AS amount
    FROM posting WHERE 'held' IN (debit, credit) GROUP BY organization_id, subject
), ledger AS (
    SELECT organization_id,
        sum(balance_nanos) AS total,
        coalesce(sum(balance_nanos) FILTER (WHERE kind = 'held'), 0) AS held,
        coalesce(sum(balance_nanos) FILTER (WHERE kind = 'spent'), 0) AS spent
    FROM account GROUP BY organization_id
), left_to_jobs AS (
    SELECT organization_id, sum(remaining_nanos) AS amount FROM hold
    WHERE released_at IS NULL GROUP BY organization_id
), settled AS (
    SELECT organization_id, sum(amount_nanos) AS amount FROM posting
    WHERE kind = 'settlement' GROUP BY organization_id
)
SELECT organization_id, 'account ' || kind, 'its balance', coalesce(balance_nanos, 0), 'its postings',
    coalesce(amount, 0)
FROM account FULL JOIN moved USING (organization_id, kind)
WHERE coalesce(balance_nanos, 0) <> coalesce(amount, 0)
UNION ALL
SELECT organization_id, 'account ' || kind, 'its balance', balance_nanos, 'the least it may be', 0
FROM account WHERE balance_nanos < 0 AND kind <> 'granted'
UNION ALL
SELECT organization_id, 'all accounts', 'the sum of balances', total, 'debits less credits', 0
FROM ledger WHERE total <> 0
UNION ALL
SELECT organization_id, 'account held', 'its balance', coalesce(held, 0), 'what open holds have left',
    coalesce(amount, 0)
FROM ledger FULL JOIN left_to_jobs USING (organization_id)
WHERE coalesce(held, 0) <> coalesce(amount, 0)
UNION ALL
SELECT organization_id, 'account spent', 'its balance', coalesce(spent, 0), 'all settlements', coalesce(amount, 0)
FROM ledger FULL JOIN settled USING (organization_id)
WHERE coalesce(spent, 0) <> coalesce(amount, 0)
UNION ALL
SELECT organization_id, 'hold of ' || job, 'what it has left', coalesce(remaining_nanos, 0), 'its postings',
    coalesce(amount, 0)
FROM hold FULL JOIN moved_by_job USING (organization_id, job)
WHERE coalesce(remaining_nanos, 0) <> coalesce(amount, 0)
UNION ALL
SELECT organization_id, 'closed hold of ' || job, 'what it has left', remaining_nanos, 'what a closed hold has', 0
FROM hold WHERE released_at IS NOT NULL AND remaining_nanos <> 0
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class Balance:
    """What an organisation can spend, what its jobs hold, and what it has spent so far, in nano-USD."""

    available_nanos: int
    held_nanos: int
    spent_nanos: int


@dataclass(frozen=True)
class LedgerSize:
    """How much there is to prove."""

    organizations: int
    postings: int


def balance(*, organization_id: UUID) -> Balance:
    """The balances of an organisation. Call inside its scope."""
    accounts = Account.objects.filter(organization_id=organization_id)
    nanos = dict(accounts.values_list("kind", "balance_nanos"))
    return Balance(
        available_nanos=nanos.get(Account.Kind.AVAILABLE, 0),
        held_nanos=nanos.get(Account.Kind.HELD, 0),
        spent_nanos=nanos.get(Account.Kind.SPENT, 0),
    )


def statement(
    *, organization_id: UUID, since: datetime | None = None, until: datetime | None = None
) -> QuerySet[Posting]:
    """Postings from ``since`` on and before ``until``, without an order. Call and read it inside the scope."""
    postings = Posting.objects.filter(organization_id=organization_id)
    if since is not None:
        postings = postings.filter(created_at__gte=since)
    if until is not None:
        postings = postings.filter(created_at__lt=until)
    return postings


def charged_for(*, job: str) -> int:
    """What a job (its wire id) has been charged so far. Call inside the scope."""
    settled = Posting.objects.filter(subject=job, kind=Posting.Kind.SETTLEMENT)
    charged: int = settled.aggregate(nanos=Sum("amount_nanos", default=0))["nanos"]
    return charged


def ledger_size() -> LedgerSize:
    """How many ledgers and postings there are, across tenants."""
    # The checker's own count: it proves every tenant's books.
    return LedgerSize(
        organizations=Account.all_tenants.filter(kind=Account.Kind.AVAILABLE).count(),
        postings=Posting.all_tenants.count(),
    )


def find_discrepancies(*, organization_id: UUID | None = None) -> list[str]:
    """Whatever is wrong in the books, one line each; of all organisations unless one is named.

    Debits equal credits, every balance is what its postings add up to, *held* is what open holds have left, *spent* all
    settlements, each hold has left what its postings say, and a closed one nothing.
    """
    with connections[SYSTEM].cursor() as cursor:
        cursor.execute(_DISCREPANCIES, {"organization": organization_id})
        rows = cursor.fetchall()
    return [
        f"{to_wire(Organization.ID_PREFIX, organization)}, {where}: {left} is ${format_usd(found)}, "
        f"{right} ${format_usd(expected)}"
        for organization, where, left, found, right, expected in rows
    ]
