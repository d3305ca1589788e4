"""The ledger: accounts, the postings that alone move them, and the holds of jobs. Amounts are nano-USD.

Triggers keep the books (migration 0002): inserting a posting moves the balances of its two accounts and, where *held*
is one of them, the remainder of the hold that its ``subject`` names. Outside of that nobody moves a balance or a
remainder, and nobody changes or deletes a posting, the owner of the tables included. So what balances say and what
postings add up to cannot drift apart through any code path, and settling a segment is one statement.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from tenants.models import TenantModel, WireModel


class Account(TenantModel):
    """One balance of an organisation. The row *available* is also the lock of all the organisation's accounts."""

    class Kind(models.TextChoices):
        """Where money can be. The sum over an organisation's accounts is always zero."""

        AVAILABLE = "available"
        """Free to be spent."""
        HELD = "held"
        """Reserved for jobs; what is left of all open holds."""
        SPENT = "spent"
        """Paid for work that was done."""
        GRANTED = "granted"
        """Where the operator's credit comes from, and the only account below zero: the others' counterpart."""

    pk = models.CompositePrimaryKey("organization_id", "kind")
    kind = models.CharField(max_length=16, choices=Kind)
    balance_nanos = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(balance_nanos__gte=0) | Q(kind="granted"), name="account_not_overdrawn"),
        ]


class Hold(TenantModel):
    """Money reserved for one job, so that the job can always pay for what it has done."""

    pk = models.CompositePrimaryKey("organization_id", "job")
    job = models.CharField(max_length=80)
    """Wire id of the batch or training job."""
    remaining_nanos = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    released_at = models.DateTimeField(null=True)
    """Since when the hold is closed: the job has ended and takes no more money."""

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(remaining_nanos__gte=0), name="hold_not_overdrawn"),
            models.CheckConstraint(condition=Q(released_at=None) | Q(remaining_nanos=0), name="hold_closed_is_empty"),
        ]


class Posting(WireModel, TenantModel):
    """One movement of money *from* the account ``debit`` *to* the account ``credit``.

    The words are meant as in the platform's own books, where a customer's balance is a liability: a debit lowers it,
    a credit raises it. One row names both sides, so debits and credits cannot differ.
    """

    ID_PREFIX = "txn_"

    class Kind(models.TextChoices):
        """Why money moves."""

        CREDIT = "credit"
        ADJUSTMENT = "adjustment"
        HOLD = "hold"
        SETTLEMENT = "settlement"
        RELEASE = "release"

    kind = models.CharField(max_length=16, choices=Kind)
    debit = models.CharField(max_length=16, choices=Account.Kind)
    credit = models.CharField(max_length=16, choices=Account.Kind)
    amount_nanos = models.BigIntegerField()
    key = models.CharField(max_length=200)
    """Natural key of what the posting is for: posting it again moves nothing."""
    subject = models.CharField(max_length=80, blank=True)
    """Wire id of the job whose hold it moves."""
    reason = models.CharField(max_length=500, blank=True)
    """Why somebody moved money by hand."""
    actor = models.CharField(max_length=80, blank=True)
    """Who did."""
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "key"], name="posting_once_per_key"),
            models.CheckConstraint(condition=Q(amount_nanos__gt=0), name="posting_moves_something"),
            models.CheckConstraint(
                condition=Q(kind="credit", debit="granted", credit="available")
                | Q(kind="adjustment", debit="granted", credit="available")
                | Q(kind="adjustment", debit="available", credit="granted")
                | Q(kind="hold", debit="available", credit="held")
                | Q(kind="settlement", debit="held", credit="spent")
                | Q(kind="release", debit="held", credit="available"),
                name="posting_sides_fit_kind",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["organization", "subject", "id"], condition=~Q(subject=""), name="posting_by_job"),
            # Settlements are nearly all there is; the few others are found without reading them.
            models.Index(
                fields=["organization", "kind", "id"], condition=~Q(kind="settlement"), name="posting_by_kind"
            ),
        ]
