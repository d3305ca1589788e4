"""``/v1/organizations``, ``/v1/organization/balance`` and ``/v1/organization/ledger``."""

from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import Posting
from billing.selectors import Balance, balance, statement
from billing.services import found_organization
from common.errors import HoneError
from common.http import StrictSerializer, parsed
from common.money import format_usd
from common.pagination import page_request, paginate
from tenants.access import PersonAPIView, TenantAPIView
from tenants.idempotency import read_attempt
from tenants.models import Organization, Role
from tenants.scope import tenant_scope
from tenants.selectors import existing_organizations, roles_of


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


class CreateOrganizationSerializer(StrictSerializer):
    """Body of ``POST /v1/organizations``."""

    name = serializers.CharField(max_length=200)


def render_organization(organization: Organization, role: str) -> dict[str, Any]:
    """The wire object, as one of its members sees it."""
    return {
        "id": organization.wire_id,
        "object": "organization",
        "created_at": int(organization.created_at.timestamp()),
        "name": organization.name,
        "status": organization.status,
        "role": role,
    }


class OrganizationListView(PersonAPIView):
    """Found an organisation; list those that one is a member of."""

    operations: ClassVar = {"POST": "organizations.create", "GET": "organizations.list"}

    def post(self, request: Request) -> Response:
        """Found one. This answer alone shows the keys of its first project and of its administration."""
        name = parsed(CreateOrganizationSerializer, request)["name"]
        attempt = read_attempt(path=request.path, headers=request.headers, fields=request.data)
        match found_organization(name=name, founder=self.person, attempt=attempt):
            case Organization() as earlier:
                return Response(render_organization(earlier, Role.OWNER))
            case made:
                return Response(
                    {
                        **render_organization(made.organization, Role.OWNER),
                        "project_id": made.project.wire_id,
                        "api_key": made.api_key.token,
                        "admin_key": made.admin_key.token,
                    }
                )

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=Organization.ID_PREFIX)
        roles = roles_of(user=self.person)
        page = paginate(existing_organizations(ids=roles.keys()), wanted)
        return Response(page.render(lambda found: render_organization(found, roles[found.id])))


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
