"""Reads about models and prices."""

from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from catalog.models import BaseModel, Price
from common.errors import HoneError
from tenants.models import ApiKey


def usable_models(*, key: ApiKey) -> QuerySet[BaseModel]:
    """Models that a key may call."""
    models = BaseModel.objects.filter(is_active=True)
    return models if key.allowed_models is None else models.filter(name__in=key.allowed_models)


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
