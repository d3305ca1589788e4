"""Organisations, their money and ``whoami`` in the published schema."""

from rest_framework import serializers

from billing.models import Account, Posting
from catalog.contracts import RATE_LIMIT
from common.contract import Contract, Query, bucket_listing, list_query, listing, page_query, span_query
from common.http import StrictSerializer
from common.shapes import (
    Shape,
    array,
    constant,
    count,
    dollars,
    integer,
    moment,
    nullable,
    number,
    one_of,
    text,
    wire_id,
)
from metering.contracts import CSV, FORMAT, GROUPS
from tenants.models import ApiKey, Organization, Project, Role
from tenants.permissions import ALL_SCOPES

COST_GROUPS = ("project_id", "user_id", "line_item", "api_key_id")
COST_DAYS = (7, 180)
"""How many days a page has by default, and at most."""


class CreateOrganizationSerializer(StrictSerializer):
    """Body of ``POST /v1/organizations``."""

    name = serializers.CharField(max_length=200)


_ORGANIZATION_ID = wire_id(Organization.ID_PREFIX)
BALANCE = Shape(
    name="Balance",
    about="What the organisation can spend, what its jobs hold, what it has spent.",
    fields={
        "object": constant("balance"),
        "currency": constant("usd"),
        "available": dollars(),
        "held": dollars(),
        "spent": dollars(),
        "available_nanos": integer("In nano-dollars."),
        "held_nanos": integer(),
        "spent_nanos": integer(),
    },
)
POSTING = Shape(
    name="LedgerEntry",
    about="Money that went from the account `debit` to the account `credit`.",
    fields={
        "id": wire_id(Posting.ID_PREFIX),
        "object": constant("ledger.entry"),
        "created_at": moment(),
        "kind": one_of(Posting.Kind.values),
        "debit": one_of(Account.Kind.values),
        "credit": one_of(Account.Kind.values),
        "amount": dollars(),
        "amount_nanos": integer("In nano-dollars.", least=1),
        "subject": nullable(text("The job that it is about.")),
        "reason": nullable(text("Why somebody moved it by hand.")),
    },
)
ORGANIZATION = Shape(
    name="Organization",
    about="An organisation, as one of its members sees it.",
    fields={
        "id": _ORGANIZATION_ID,
        "object": constant("organization"),
        "created_at": moment(),
        "name": text(most=200),
        "status": one_of([Organization.Status.ACTIVE, Organization.Status.SUSPENDED]),
        "role": one_of(Role.values, "The caller's."),
    },
)
FOUNDED = Shape(
    name="FoundedOrganization",
    about="With the keys of its first project and of its administration, which no other answer shows.",
    fields=ORGANIZATION.fields,
    optional={
        "project_id": wire_id(Project.ID_PREFIX),
        "api_key": text(pattern="^hone_sk_"),
        "admin_key": text(pattern="^hone_ak_"),
    },
)
COST = Shape(
    name="Cost",
    about="What was charged. `amount_nanos`, which is Hone's, is exact.",
    fields={
        "object": constant("organization.costs.result"),
        "project_id": GROUPS["project_id"],
        "user_id": GROUPS["user_id"],
        "line_item": nullable(text("Of a model one kind of tokens. null unless it was grouped by.")),
        "api_key_id": GROUPS["api_key_id"],
        "amount": Shape(
            name="CostAmount", about="In dollars.", fields={"currency": constant("usd"), "value": number()}
        ),
        "amount_nanos": count("In nano-dollars."),
        "quantity": nullable(count("Tokens of the line item.")),
        "quantity_unit": nullable(constant("tokens")),
    },
)
COST_COLUMNS = tuple(name for name in COST.fields if name != "object")
_NAMED = {"name": text()}
WHOAMI = Shape(
    name="WhoAmI",
    about="What a key is and may do, and what its organisation can still spend.",
    fields={
        "object": constant("whoami"),
        "organization": Shape(
            name="WhoAmIOrganization", about="The tenant.", fields={"id": _ORGANIZATION_ID, **_NAMED}
        ),
        "project": nullable(
            Shape(name="WhoAmIProject", about="Of a project key.", fields={"id": wire_id(Project.ID_PREFIX), **_NAMED})
        ),
        "key": Shape(
            name="WhoAmIKey",
            about="The key, or what a signed-in member's work is booked under.",
            fields={
                "id": wire_id(ApiKey.ID_PREFIX),
                "name": text(),
                "kind": one_of(ApiKey.Kind.values),
                "created_at": moment(),
                "expires_at": nullable(moment()),
            },
        ),
        "scopes": array(one_of(sorted(ALL_SCOPES))),
        "models": array(text(), "That it may use."),
        "rate_limits": array(RATE_LIMIT, "Of these models."),
        "budget": Shape(
            name="WhoAmIBudget",
            about="What the organisation can still spend.",
            fields={
                "currency": constant("usd"),
                "available": dollars(),
                "available_nanos": integer("In nano-dollars."),
            },
        ),
    },
)

FOUND_ORGANIZATION = Contract(
    summary="Found an organisation",
    description="Its founder owns it. The keys are in this answer alone; a repetition does not show them again.",
    body=CreateOrganizationSerializer,
    creates=True,
    answer=FOUNDED,
    errors=("conflict", "not_found"),
)
LIST_ORGANIZATIONS = Contract(
    summary="List one's organisations",
    query=page_query(Organization.ID_PREFIX),
    answer=listing(ORGANIZATION),
)
RETRIEVE_BALANCE = Contract(summary="Show the balance", answer=BALANCE)
LIST_LEDGER = Contract(
    summary="List movements of money",
    query=(
        *page_query(Posting.ID_PREFIX),
        Query(name="kind", schema=one_of(Posting.Kind.values), about="Those of this kind alone."),
        Query(name="subject", schema=text(), about="Those of this job alone."),
    ),
    answer=listing(POSTING),
)
LIST_COSTS = Contract(
    summary="Sum up costs by day",
    query=(
        *span_query({"1d": COST_DAYS}),
        list_query("group_by", "What to sum up apart.", items=one_of(COST_GROUPS)),
        list_query("project_ids", "Of these projects alone."),
        list_query("api_key_ids", "Of these keys alone."),
        list_query("line_items", "Of these line items alone."),
        FORMAT,
    ),
    answer=bucket_listing(COST),
    contents=(CSV,),
)
WHO_AM_I = Contract(summary="Explain the key that asks", answer=WHOAMI)
