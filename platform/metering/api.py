"""``/v1/organization/usage``."""

from collections.abc import Callable
from typing import Any, ClassVar

from django.http import QueryDict, StreamingHttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from common import query as read
from metering import contracts
from metering.answers import respond
from metering.buckets import WIDTHS, Span, read_span
from metering.contracts import COMPLETION_COLUMNS, COMPLETION_GROUPS, EMBEDDING_COLUMNS, EMBEDDING_GROUPS
from metering.models import UsageEvent
from metering.selectors import UsageFilter, UsageSum, usage_by_bucket
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope


def render_completions(found: UsageSum) -> dict[str, Any]:
    """The wire object; what was not grouped by is null."""
    return {
        "object": "organization.usage.completions.result",
        **dict.fromkeys(COMPLETION_GROUPS),
        **found.group,
        "num_model_requests": found.requests,
        "input_tokens": found.input_tokens,
        "input_cached_tokens": found.cached_tokens,
        "input_uncached_tokens": found.input_tokens - found.cached_tokens,
        "output_tokens": found.output_tokens,
    }


def render_embeddings(found: UsageSum) -> dict[str, Any]:
    """The wire object."""
    return {
        "object": "organization.usage.embeddings.result",
        **dict.fromkeys(EMBEDDING_GROUPS),
        **found.group,
        "num_model_requests": found.requests,
        "input_tokens": found.input_tokens,
    }


class UsageView(TenantAPIView):
    """What the usage views share."""

    def page(
        self,
        request: Request,
        operation: UsageEvent.Operation,
        groups: tuple[str, ...],
        columns: tuple[str, ...],
        render: Callable[[UsageSum], dict[str, Any]],
    ) -> Response | StreamingHttpResponse:
        """One page of buckets, or all of them as CSV."""
        query = request.query_params
        organization_id = self.principal.organization_id
        group_by = read.choices(query, "group_by", groups)
        wanted = _usage_filter(query, operation)

        def find(span: Span) -> list[UsageSum]:
            with tenant_scope(organization_id):
                return usage_by_bucket(organization_id=organization_id, span=span, wanted=wanted, group_by=group_by)

        span = read_span(query, widths=tuple(WIDTHS))
        return respond(query=query, span=span, find=find, render=render, columns=columns)


class CompletionsUsageView(UsageView):
    """Usage of completions, chat and plain."""

    operations: ClassVar = {"GET": "usage.completions"}
    contracts: ClassVar = {"GET": contracts.LIST_COMPLETIONS}

    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """One page of buckets."""
        return self.page(
            request, UsageEvent.Operation.COMPLETIONS, COMPLETION_GROUPS, COMPLETION_COLUMNS, render_completions
        )


class EmbeddingsUsageView(UsageView):
    """Usage of embeddings."""

    operations: ClassVar = {"GET": "usage.embeddings"}
    contracts: ClassVar = {"GET": contracts.LIST_EMBEDDINGS}

    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """One page of buckets."""
        return self.page(
            request, UsageEvent.Operation.EMBEDDINGS, EMBEDDING_GROUPS, EMBEDDING_COLUMNS, render_embeddings
        )


def _usage_filter(query: QueryDict, operation: UsageEvent.Operation) -> UsageFilter:
    return UsageFilter(
        operation=operation,
        project_ids=read.texts(query, "project_ids"),
        api_key_ids=read.texts(query, "api_key_ids"),
        user_ids=read.texts(query, "user_ids"),
        models=read.texts(query, "models"),
        batch=read.flag(query, "batch"),
    )
