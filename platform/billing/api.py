"""``/v1/organizations``; ``/v1/organization/balance``, ``ledger`` and ``costs``; ``/v1/whoami``."""

from functools import partial
from typing import Any, ClassVar

from django.http import StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from billing import contracts
from billing.contracts import COST_COLUMNS, COST_DAYS, COST_GROUPS, CreateOrganizationSerializer
from billing.costs import CostSum, costs_by_bucket
from billing.models import Posting
from billing.selectors import Balance, balance, statement
from billing.services import found_organization
from catalog.api import render_limits
from catalog.selectors import limits_of, served_models
from common import query as read
from common.errors import HoneError
from common.http import parsed
from common.money import NANOS_PER_USD, format_usd
from common.pagination import page_request, paginate
from metering.answers import respond
from metering.buckets import Span, read_span
from metering.selectors import UsageFilter
from tenants.access import PersonAPIView, Principal, TenantAPIView
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
    contracts: ClassVar = {"POST": contracts.FOUND_ORGANIZATION, "GET": contracts.LIST_ORGANIZATIONS}

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


def render_cost(found: CostSum, group_by: list[str]) -> dict[str, Any]:
    """The wire object; ``amount_nanos`` is ours and exact, whereas ``amount`` is a JSON number of dollars."""
    is_item = "line_item" in group_by
    return {
        "object": "organization.costs.result",
        **dict.fromkeys(COST_GROUPS),
        **found.group,
        "amount": {"currency": "usd", "value": found.nanos / NANOS_PER_USD},
        "amount_nanos": found.nanos,
        "quantity": found.tokens if is_item else None,
        "quantity_unit": "tokens" if is_item else None,
    }


def render_whoami(principal: Principal) -> dict[str, Any]:
    """What a key is and can do, and what its organisation can still spend. Call inside the scope."""
    key, project = principal.key, principal.project
    usable = sorted({model.name for model in served_models(key=key).values()}) if project else []
    limits = limits_of(project_id=project.id, models=usable) if project else []
    found = balance(organization_id=principal.organization_id)
    return {
        "object": "whoami",
        "organization": {"id": principal.organization.wire_id, "name": principal.organization.name},
        "project": {"id": project.wire_id, "name": project.name} if project else None,
        "key": {
            "id": key.wire_id,
            "name": key.name,
            "kind": key.kind,
            "created_at": int(key.created_at.timestamp()),
            "expires_at": int(key.expires_at.timestamp()) if key.expires_at else None,
        },
        "scopes": sorted(principal.scopes),
        "models": usable,
        "rate_limits": [render_limits(entry) for entry in limits],
        "budget": {
            "currency": "usd",
            "available": format_usd(found.available_nanos),
            "available_nanos": found.available_nanos,
        },
    }


class BalanceView(TenantAPIView):
    """What the organisation can spend."""

    operations: ClassVar = {"GET": "balance.retrieve"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_BALANCE}

    def get(self, request: Request) -> Response:
        """The balance object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_balance(balance(organization_id=self.principal.organization_id)))


class LedgerView(TenantAPIView):
    """The organisation's postings."""

    operations: ClassVar = {"GET": "ledger.list"}
    contracts: ClassVar = {"GET": contracts.LIST_LEDGER}

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


class CostListView(TenantAPIView):
    """What work has cost."""

    operations: ClassVar = {"GET": "costs.list"}
    contracts: ClassVar = {"GET": contracts.LIST_COSTS}

    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """One page of days, or all of them as CSV."""
        query = request.query_params
        organization_id = self.principal.organization_id
        group_by = read.choices(query, "group_by", COST_GROUPS)
        line_items = read.texts(query, "line_items")
        wanted = UsageFilter(
            project_ids=read.texts(query, "project_ids"), api_key_ids=read.texts(query, "api_key_ids")
        )  # fmt: skip

        def find(span: Span) -> list[CostSum]:
            with tenant_scope(organization_id):
                return costs_by_bucket(
                    organization_id=organization_id, span=span, wanted=wanted, line_items=line_items, group_by=group_by
                )

        span = read_span(query, widths=("1d",), most=COST_DAYS)
        render = partial(render_cost, group_by=group_by)
        return respond(query=query, span=span, find=find, render=render, columns=COST_COLUMNS)


class WhoAmIView(TenantAPIView):
    """The key that asks."""

    operations: ClassVar = {"GET": "whoami.retrieve"}
    contracts: ClassVar = {"GET": contracts.WHO_AM_I}

    def get(self, request: Request) -> Response:
        """Everything that decides what it may do."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_whoami(self.principal))
