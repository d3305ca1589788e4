"""Writes about what a project restricts for itself: which models its keys may use, and how much of each."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings

from catalog.models import ModelPolicy, RateLimit
from catalog.selectors import Limits, active_models, callable_models, get_policy, limits_of
from common.errors import HoneError, not_found
from tenants.models import Project
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.services import record

LIMIT_PREFIX = "rl-"
"""Before a model's name it is the id of the project's limits for it."""
FIELDS = {
    "max_requests_per_1_minute": "requests_per_minute",
    "max_tokens_per_1_minute": "tokens_per_minute",
    "max_requests_per_1_day": "requests_per_day",
    "batch_1_day_max_input_tokens": "batch_input_tokens",
}
"""OpenAI's names of the limits."""


def known_names(*, project: Project) -> set[str]:
    """Models that the project can restrict: those that are offered, and what it has fine-tuned from them."""
    offered = active_models().values_list("name", flat=True)
    return {*offered, *callable_models(project_id=project.id).values_list("name", flat=True)}


def change_limits(
    *, organization_id: UUID, project_wire_id: str, wire_id: str, changes: dict[str, int | None], actor: str
) -> Limits:
    """Set the named limits (keys of :data:`FIELDS`) for one model; None goes back to the installation's.

    ``invalid_value`` for more than the installation allows.
    """
    ceilings: dict[str, int] = {
        "max_requests_per_1_minute": settings.LIMIT_REQUESTS_PER_MINUTE,
        "max_tokens_per_1_minute": settings.LIMIT_TOKENS_PER_MINUTE,
        "batch_1_day_max_input_tokens": settings.LIMIT_BATCH_INPUT_TOKENS,
    }
    for name, value in changes.items():
        if value is not None and value > ceilings.get(name, value):
            raise HoneError("invalid_value", f"'{name}' can be at most {ceilings[name]}", param=name)
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        model = wire_id.removeprefix(LIMIT_PREFIX)
        if wire_id == model or model not in known_names(project=project):
            raise not_found("rate limit", wire_id, param="rate_limit_id")
        if changes:
            RateLimit.objects.update_or_create(
                organization_id=organization_id,
                project_id=project.id,
                model=model,
                defaults={FIELDS[name]: value for name, value in changes.items()},
            )
            _record(project, "rate_limit.updated", wire_id, actor, changes)
        return limits_of(project_id=project.id, models=[model])[0]


def set_policy(
    *, organization_id: UUID, project_wire_id: str, mode: ModelPolicy.Mode, models: Sequence[str], actor: str
) -> ModelPolicy:
    """Let a project use the named models alone, or all but these; ``model_not_found`` for one that is not offered."""
    names = sorted(set(models))
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        known = known_names(project=project)
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise HoneError("model_not_found", f"The model '{unknown}' does not exist", param="model_ids")
        policy, is_new = ModelPolicy.objects.get_or_create(
            organization_id=organization_id, project_id=project.id, defaults={"mode": mode, "model_names": names}
        )
        if is_new or (policy.mode, policy.model_names) != (mode, names):
            policy.mode, policy.model_names = mode, names
            policy.save(update_fields=["mode", "model_names"])
            details = {"model_permissions": {"mode": mode.value, "model_ids": names}}
            _record(project, "project.updated", project.wire_id, actor, details)
    return policy


def remove_policy(*, organization_id: UUID, project_wire_id: str, actor: str) -> None:
    """Let a project use all models again; repeating it is harmless."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        policy = get_policy(project_id=project.id)
        if policy is not None:
            policy.delete()
            _record(project, "project.updated", project.wire_id, actor, {"model_permissions": None})


def _record(project: Project, action: str, subject: str, actor: str, details: dict[str, Any]) -> None:
    record(
        actor=actor,
        action=action,
        subject=subject,
        organization_id=project.organization_id,
        project_id=project.id,
        details=details,
    )
