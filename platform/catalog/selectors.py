"""Reads about models and prices, and what a project may use of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import orjson
from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from catalog.models import BaseModel, CheckpointPermission, FineTunedModel, ModelAlias, ModelPolicy, Price, RateLimit
from common.errors import HoneError, not_found
from common.storage import open_blob
from tenants.models import ApiKey, Project
from tenants.scope import tenant_scope


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a project may ask of one model; None is without a limit."""

    model: str
    requests_per_minute: int
    tokens_per_minute: int
    requests_per_day: int | None
    batch_input_tokens: int
    """Estimated input tokens of all batch requests that wait or run."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a name in a request stands for: a base model, or one with an adapter on it."""

    name: str
    """Its own name, also where an alias was asked for."""
    base: BaseModel
    adapter: FineTunedModel | None = None


@dataclass(frozen=True)
class _Permits:
    """What a key may call, by its own list and its project's policy. Who names a base names what is tuned from it."""

    allowed: frozenset[str] | None
    policy: ModelPolicy | None

    def __call__(self, served: ServedModel, *, asked: str) -> bool:
        names = {asked, served.name, served.base.name}
        if self.allowed is not None and self.allowed.isdisjoint(names):
            return False
        if self.policy is None:
            return True
        is_named = not names.isdisjoint(self.policy.model_names)
        return is_named == (self.policy.mode == ModelPolicy.Mode.ALLOW)


def active_models() -> QuerySet[BaseModel]:
    """Models that are offered."""
    return BaseModel.objects.filter(is_active=True)


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


def callable_models(*, project_id: UUID) -> QuerySet[FineTunedModel]:
    """Fine-tuned models that the project can call: its own and those it is permitted to. Call inside the scope."""
    permission = CheckpointPermission.objects.filter(model_id=OuterRef("id"), project_id=project_id)
    return FineTunedModel.objects.select_related("base").filter(
        Q(project_id=project_id) | Exists(permission),
        state=FineTunedModel.State.READY,
        base__is_active=True,
        base_revision=F("base__revision"),
    )


def aliases_of(*, project_id: UUID) -> dict[str, str]:
    """What each alias of the project stands for now: a fine-tuned model's name. Call inside the scope."""
    return dict(ModelAlias.objects.filter(project_id=project_id).values_list("name", "target__name"))


def served_models(*, key: ApiKey, aliases: Mapping[str, str] | None = None) -> dict[str, ServedModel]:
    """All that a key may call, by the names it may be asked for. Call inside the scope.

    ``aliases`` (as :func:`aliases_of` gives them) are those of another moment, instead of today's.
    """
    found = {model.name: ServedModel(name=model.name, base=model) for model in active_models()}
    if key.project_id is not None:
        tuned = {
            model.name: ServedModel(name=model.name, base=model.base, adapter=model)
            for model in callable_models(project_id=key.project_id)
        }
        names = aliases_of(project_id=key.project_id) if aliases is None else aliases
        # An alias before a base model: one that comes later must not change what a project's name stands for.
        found |= tuned | {alias: tuned[name] for alias, name in names.items() if name in tuned}
    permits = _permits(key)
    return {asked: served for asked, served in found.items() if permits(served, asked=asked)}


def get_served_model(*, key: ApiKey, name: str) -> ServedModel:
    """What a name stands for; a missing model and a forbidden one look the same. Call inside the scope."""
    served = _find_served(key, name) if "\0" not in name else None
    if served is None or not _permits(key)(served, asked=name):
        raise model_not_found(name)
    return served


def get_shown_model(*, key: ApiKey, name: str) -> ServedModel:
    """As :func:`get_served_model`, and models of the project's own that cannot be called, or not yet."""
    own = _own_model(key.project_id, name) if key.project_id else None
    served = ServedModel(name=own.name, base=own.base, adapter=own) if own else None
    if served is not None and _permits(key)(served, asked=name):
        return served
    return get_served_model(key=key, name=name)


def get_own_model(*, project: Project, name: str) -> FineTunedModel:
    """A fine-tuned model of the project's own that can be called, or ``model_not_found``. Call inside the scope."""
    model = _own_model(project.id, name)
    if model is None or model.state != FineTunedModel.State.READY:
        raise model_not_found(name)
    return model


def get_alias(*, project: Project, name: str) -> ModelAlias:
    """An alias of the project, or ``not_found``. Call inside the scope."""
    aliases = project_aliases(project=project).filter(name=name.replace("\0", ""))
    alias = aliases.first()
    if alias is None:
        raise not_found("alias", name, param="alias")
    return alias


def project_aliases(*, project: Project) -> QuerySet[ModelAlias]:
    """Aliases of a project, with what they stand for."""
    return ModelAlias.objects.select_related("target", "previous").filter(project_id=project.id)


def model_not_found(name: str) -> HoneError:
    """The one answer for a model that is missing, one that is forbidden, and one that is somebody else's."""
    return HoneError("model_not_found", f"The model '{name}' does not exist or this key may not use it", param="model")


def linear_modules(*, base: BaseModel) -> Mapping[str, tuple[int, int]]:
    """Output and input size of each linear module that an adapter may change, by the module's name."""
    return _load_modules(base.modules_key) if base.modules_key else {}


def live_addresses(*, addresses: Iterable[str]) -> set[str]:
    """Those of the adapters' addresses that a node may keep. Crosses tenants: a node works for many."""
    live = (FineTunedModel.State.PUBLISHING, FineTunedModel.State.READY)
    models = FineTunedModel.all_tenants.filter(address__in=list(addresses), state__in=live)
    return set(models.values_list("address", flat=True))


def referenced_blobs(organization_id: UUID, keys: list[str]) -> set[str]:
    """Those of the storage keys that a fine-tuned model of the organisation names."""
    with tenant_scope(organization_id):
        models = FineTunedModel.objects.values_list("files", flat=True)
        named = {file["storage_key"] for files in models.iterator() for file in files.values()}
    return named.intersection(keys)


def current_prices(*, kind: Price.Kind, completion_window: str = "") -> dict[UUID, Price]:
    """The version in force now of each model that has a price of this kind, by the model's id."""
    prices = Price.objects.filter(kind=kind, completion_window=completion_window, effective_at__lte=timezone.now())
    return {price.model_id: price for price in prices.order_by("model", "-version").distinct("model")}


def tuned_prices(*, kind: Price.Kind, completion_window: str = "") -> dict[UUID, Price]:
    """As :func:`current_prices`, of the models that are fine-tuned from each, by the base model's id."""
    own = {Price.Kind.ONLINE: Price.Kind.TUNED_ONLINE, Price.Kind.BATCH: Price.Kind.TUNED_BATCH}[kind]
    base = current_prices(kind=kind, completion_window=completion_window)
    return base | current_prices(kind=own, completion_window=completion_window)


def _permits(key: ApiKey) -> _Permits:
    policy = get_policy(project_id=key.project_id) if key.project_id else None
    return _Permits(None if key.allowed_models is None else frozenset(key.allowed_models), policy)


def _own_model(project_id: UUID, name: str) -> FineTunedModel | None:
    models = FineTunedModel.objects.select_related("base").filter(project_id=project_id, name=name.replace("\0", ""))
    return models.exclude(state=FineTunedModel.State.DELETED).first()


def _find_served(key: ApiKey, name: str) -> ServedModel | None:
    if key.project_id is not None:
        alias = ModelAlias.objects.filter(project_id=key.project_id, name=name).values_list("target_id", flat=True)
        tuned = callable_models(project_id=key.project_id).filter(Q(name=name) | Q(id__in=alias)).first()
        if tuned is not None:
            return ServedModel(name=tuned.name, base=tuned.base, adapter=tuned)
    base = active_models().filter(name=name).first()
    return ServedModel(name=base.name, base=base) if base else None


@lru_cache(maxsize=8)
def _load_modules(modules_key: str) -> Mapping[str, tuple[int, int]]:
    with open_blob(modules_key) as file:
        return {name: (out, into) for name, (out, into) in orjson.loads(file.read()).items()}


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
