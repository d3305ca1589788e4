"""``/v1/organization/balance`` and ``/v1/organization/ledger``."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Posting
from billing.selectors import Balance, balance, statement
from common.errors import HoneError
from common.money import format_usd
from common.pagination import page_request, paginate
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


def render_balance(found: Balance) -> dict[str, Any]:
    """The wire object: exact integers of nano-USD, and the same in dollars as text."""
    return {
        "object": "balance",
        "currency": "usd",
        "available": format_usd(found.available_nanos),
        "held": format_usd(found.held_nanos),
        "spent": format_usd(found.spent_nanos),
        "available_nanos": found.available_nanos,
        "held_nanos": found.held_nanos,
        "spent_nanos": found.spent_nanos,
    }


def render_posting(posting: Posting) -> dict[str, Any]:
    """The wire object: money went from ``debit`` to ``credit``. Who of the operator's people did it is not shown."""
    return {
        "id": posting.wire_id,
        "object": "ledger.entry",
        "created_at": int(posting.created_at.timestamp()),
        "kind": posting.kind,
        "debit": posting.debit,
        "credit": posting.credit,
        "amount": format_usd(posting.amount_nanos),
        "amount_nanos": posting.amount_nanos,
        "subject": posting.subject or None,
        "reason": posting.reason or None,
    }


class BalanceView(TenantAPIView):
    """What the organisation can spend."""

    operations: ClassVar = {"GET": "balance.retrieve"}

    def get(self, request: Request) -> Response:
        """The balance object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_balance(balance(organization_id=self.principal.organization_id)))


class LedgerView(TenantAPIView):
    """The organisation's postings."""

    operations: ClassVar = {"GET": "ledger.list"}

    def get(self, request: Request) -> Response:
        """One page, newest first; ``kind`` and ``subject`` (a job) narrow it down."""
        query = request.query_params.dict()
        wanted = page_request(query, prefix=Posting.ID_PREFIX)
        kind, subject = query.get("kind"), query.get("subject")
        if kind is not None and kind not in Posting.Kind.values:
            known = ", ".join(Posting.Kind.values)
            raise HoneError("invalid_value", f"'kind' must be one of {known}, not '{kind}'", param="kind")
        if subject and not subject.isprintable():
            raise HoneError("invalid_value", "'subject' must be the id of a job", param="subject")
        with tenant_scope(self.principal.organization_id):
            postings = statement(organization_id=self.principal.organization_id)
            if kind is not None:
                postings = postings.filter(kind=kind)
            if subject:
                postings = postings.filter(subject=subject)
            page = paginate(postings, wanted)
        return Response(page.render(render_posting))
