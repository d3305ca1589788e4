"""``/v1/models``, and what a project restricts for itself below ``/v1/organization/projects``."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from catalog import contracts
from catalog.contracts import ModelPolicySerializer, RateLimitSerializer
from catalog.models import BaseModel, ModelPolicy
from catalog.restrictions import FIELDS, LIMIT_PREFIX, change_limits, remove_policy, set_policy
from catalog.selectors import Limits, active_models, get_model, get_policy, limits_of, usable_models
from common.errors import HoneError
from common.http import parsed
from common.pagination import page_limit
from tenants.access import TenantAPIView
from tenants.scope import tenant_scope
from tenants.selectors import get_project


def render_model(model: BaseModel) -> dict[str, Any]:
    """The wire object; the last three members are ours."""
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.created_at.timestamp()),
        "owned_by": "hone",
        "context_length": model.context_length,
        "capabilities": sorted(model.capabilities),
        "revision": model.revision,
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
    contracts: ClassVar = {"GET": contracts.LIST_MODELS}

    def get(self, request: Request) -> Response:
        """The list."""
        with tenant_scope(self.principal.organization_id):
            models = usable_models(key=self.principal.key).order_by("name")
            return Response({"object": "list", "data": [render_model(model) for model in models]})


class ModelView(TenantAPIView):
    """One model."""

    operations: ClassVar = {"GET": "models.retrieve"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_MODEL}

    def get(self, request: Request, name: str) -> Response:
        """The model object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_model(get_model(key=self.principal.key, name=name)))


class RateLimitListView(TenantAPIView):
    """The limits of a project, model by model."""

    operations: ClassVar = {"GET": "rate_limits.list"}
    contracts: ClassVar = {"GET": contracts.LIST_RATE_LIMITS}

    def get(self, request: Request, project_id: str) -> Response:
        """One page by name of the model, which is the cursor; ``before`` turns back."""
        query = request.query_params.dict()
        limit = page_limit(query, max_limit=1_000, default_limit=100)
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            names = active_models().values_list("name", flat=True)
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
    contracts: ClassVar = {"POST": contracts.UPDATE_RATE_LIMIT}

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
    contracts: ClassVar = {
        "GET": contracts.RETRIEVE_POLICY,
        "POST": contracts.UPDATE_POLICY,
        "DELETE": contracts.DELETE_POLICY,
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
