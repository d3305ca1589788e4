"""``/v1/models``, and what a project restricts for itself below ``/v1/organization/projects``."""

from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from catalog.models import FineTunedModel, ModelPolicy
from catalog.publishing import delete_model
from catalog.restrictions import FIELDS, LIMIT_PREFIX, change_limits, known_names, remove_policy, set_policy
from catalog.selectors import Limits, ServedModel, get_policy, get_shown_model, limits_of, served_models
from common.errors import HoneError
from common.http import StrictSerializer, parsed
from common.ids import to_wire
from common.pagination import page_limit
from tenants.access import TenantAPIView
from tenants.models import Organization
from tenants.scope import tenant_scope
from tenants.selectors import get_project

MAX_LIMIT = 2**31 - 1


class ModelPolicySerializer(StrictSerializer):
    """Body of ``POST .../model_permissions``."""

    mode = serializers.ChoiceField(choices=ModelPolicy.Mode.values)
    model_ids = serializers.ListField(child=serializers.CharField(max_length=200), max_length=1_000)


class RateLimitSerializer(StrictSerializer):
    """Body of ``POST .../rate_limits/{id}``; null, which is ours, goes back to the installation's limit."""

    max_requests_per_1_minute = serializers.IntegerField(
        min_value=0, max_value=MAX_LIMIT, required=False, allow_null=True
    )
    max_tokens_per_1_minute = serializers.IntegerField(min_value=0, required=False, allow_null=True)
    max_requests_per_1_day = serializers.IntegerField(min_value=0, max_value=MAX_LIMIT, required=False, allow_null=True)
    batch_1_day_max_input_tokens = serializers.IntegerField(min_value=0, required=False, allow_null=True)


def render_model(served: ServedModel, *, asked: str) -> dict[str, Any]:
    """The wire object; what follows ``owned_by`` is ours."""
    base, adapter = served.base, served.adapter
    common = {"id": asked, "object": "model"}
    facts = {"context_length": base.context_length, "capabilities": sorted(base.capabilities)}
    if adapter is None:
        created = int(base.created_at.timestamp())
        return {**common, "created": created, "owned_by": "hone", **facts, "revision": base.revision}
    is_outdated = adapter.base_revision != base.revision
    return {
        **common,
        "created": int(adapter.created_at.timestamp()),
        "owned_by": to_wire(Organization.ID_PREFIX, adapter.organization_id),
        **facts,
        "revision": adapter.base_revision,
        "base": base.name,
        "alias_of": served.name if asked != served.name else None,
        "job": adapter.job,
        "step": adapter.step,
        "status": "outdated" if is_outdated and adapter.state == FineTunedModel.State.READY else adapter.state,
        "refusal": adapter.refusal or None,
    }


def render_limits(limits: Limits) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": f"{LIMIT_PREFIX}{limits.model}",
        "object": "project.rate_limit",
        "model": limits.model,
        **{name: getattr(limits, field) for name, field in FIELDS.items()},
    }


def render_policy(policy: ModelPolicy | None) -> dict[str, Any]:
    """The wire object."""
    return {
        "object": "project.model_permissions",
        "mode": policy.mode if policy else ModelPolicy.Mode.DENY.value,
        "model_ids": policy.model_names if policy else [],
    }


class ModelListView(TenantAPIView):
    """All models the key may use, unpaged as in OpenAI's API."""

    operations: ClassVar = {"GET": "models.list"}

    def get(self, request: Request) -> Response:
        """The list."""
        with tenant_scope(self.principal.organization_id):
            models = sorted(served_models(key=self.principal.key).items(), key=lambda item: item[0])
            return Response({"object": "list", "data": [render_model(model, asked=name) for name, model in models]})


class ModelView(TenantAPIView):
    """One model."""

    operations: ClassVar = {"GET": "models.retrieve", "DELETE": "models.delete"}

    def get(self, request: Request, name: str) -> Response:
        """The model object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_model(get_shown_model(key=self.principal.key, name=name), asked=name))

    def delete(self, request: Request, name: str) -> Response:
        """Delete a fine-tuned model, unless something needs it."""
        model = delete_model(project=self.project, name=name, actor=self.principal.actor)
        return Response({"id": model.name, "object": "model", "deleted": True})


class RateLimitListView(TenantAPIView):
    """The limits of a project, model by model."""

    operations: ClassVar = {"GET": "rate_limits.list"}

    def get(self, request: Request, project_id: str) -> Response:
        """One page by name of the model, which is the cursor; ``before`` turns back."""
        query = request.query_params.dict()
        limit = page_limit(query, max_limit=1_000, default_limit=100)
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            names = known_names(project=project)
            ids, has_more = _turn(sorted(f"{LIMIT_PREFIX}{name}" for name in names), query, limit)
            limits = limits_of(project_id=project.id, models=[text.removeprefix(LIMIT_PREFIX) for text in ids])
        return Response(
            {
                "object": "list",
                "data": [render_limits(entry) for entry in limits],
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
                "has_more": has_more,
            }
        )


class RateLimitView(TenantAPIView):
    """A project's limits for one model."""

    operations: ClassVar = {"POST": "rate_limits.update"}

    def post(self, request: Request, project_id: str, rate_limit_id: str) -> Response:
        """Lower them, or go back to the installation's."""
        limits = change_limits(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=rate_limit_id,
            changes=parsed(RateLimitSerializer, request),
            actor=self.principal.actor,
        )
        return Response(render_limits(limits))


class ModelPolicyView(TenantAPIView):
    """Which models a project may use."""

    operations: ClassVar = {
        "GET": "model_permissions.retrieve",
        "POST": "model_permissions.update",
        "DELETE": "model_permissions.delete",
    }

    def get(self, request: Request, project_id: str) -> Response:
        """The policy object; a project without one denies nothing."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_policy(get_policy(project_id=get_project(wire_id=project_id).id)))

    def post(self, request: Request, project_id: str) -> Response:
        """Replace it."""
        data = parsed(ModelPolicySerializer, request)
        policy = set_policy(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            mode=ModelPolicy.Mode(data["mode"]),
            models=data["model_ids"],
            actor=self.principal.actor,
        )
        return Response(render_policy(policy))

    def delete(self, request: Request, project_id: str) -> Response:
        """Back to all models."""
        remove_policy(
            organization_id=self.principal.organization_id, project_wire_id=project_id, actor=self.principal.actor
        )
        return Response({"object": "project.model_permissions.deleted", "deleted": True})


def _turn(ids: list[str], query: dict[str, str], limit: int) -> tuple[list[str], bool]:
    """The page of a sorted list, and whether there is more in its direction."""
    after, before = query.get("after"), query.get("before")
    if after and before:
        raise HoneError("invalid_value", "Send either 'after' or 'before'", param="before")
    if before:
        left = [text for text in ids if text < before]
        return left[-limit:], len(left) > limit
    left = [text for text in ids if text > (after or "")]
    return left[:limit], len(left) > limit
