"""Reads about models and prices, and what a project may use of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from catalog.models import BaseModel, ModelPolicy, Price, RateLimit
from common.errors import HoneError
from tenants.models import ApiKey


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a project may ask of one model; None is without a limit."""

    model: str
    requests_per_minute: int
    tokens_per_minute: int
    requests_per_day: int | None
    batch_input_tokens: int
    """Estimated input tokens of all batch requests that wait or run."""


def active_models() -> QuerySet[BaseModel]:
    """Models that are offered."""
    return BaseModel.objects.filter(is_active=True)


def usable_models(*, key: ApiKey) -> QuerySet[BaseModel]:
    """Models that a key may call: the key's own list, and its project's policy. Call inside the scope."""
    models = active_models()
    if key.allowed_models is not None:
        models = models.filter(name__in=key.allowed_models)
    policy = get_policy(project_id=key.project_id) if key.project_id else None
    if policy is None:
        return models
    named = models.filter(name__in=policy.model_names)
    return named if policy.mode == ModelPolicy.Mode.ALLOW else models.exclude(name__in=policy.model_names)


def get_policy(*, project_id: UUID) -> ModelPolicy | None:
    """The project's policy, if it has one. Call inside the scope."""
    return ModelPolicy.objects.filter(project_id=project_id).first()


def limits_of(*, project_id: UUID, models: Iterable[str]) -> list[Limits]:
    """The limits that hold in a project for these models, in their order. Call inside the scope.

    A project lowers the installation's limits and never raises them, also where those have been lowered since.
    """
    names = list(models)
    rows = {row.model: row for row in RateLimit.objects.filter(project_id=project_id, model__in=names)}
    return [_limits(name, rows.get(name) or RateLimit()) for name in names]


def get_model(*, key: ApiKey, name: str) -> BaseModel:
    """One model; a missing and a forbidden one look the same."""
    model = usable_models(key=key).filter(name=name).first() if "\0" not in name else None
    if model is None:
        raise HoneError(
            "model_not_found", f"The model '{name}' does not exist or this key may not use it", param="model"
        )
    return model


def current_prices(*, kind: Price.Kind, completion_window: str = "") -> dict[UUID, Price]:
    """The version in force now of each model that has a price of this kind, by the model's id."""
    prices = Price.objects.filter(kind=kind, completion_window=completion_window, effective_at__lte=timezone.now())
    return {price.model_id: price for price in prices.order_by("model", "-version").distinct("model")}


def _limits(model: str, row: RateLimit) -> Limits:
    batch = _lower(row.batch_input_tokens, settings.LIMIT_BATCH_INPUT_TOKENS)
    requests = _lower(row.requests_per_minute, settings.LIMIT_REQUESTS_PER_MINUTE)
    tokens = _lower(row.tokens_per_minute, settings.LIMIT_TOKENS_PER_MINUTE)
    return Limits(
        model=model,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        requests_per_day=row.requests_per_day,
        batch_input_tokens=batch,
    )


def _lower(own: int | None, ceiling: int) -> int:
    return ceiling if own is None else min(own, ceiling)
