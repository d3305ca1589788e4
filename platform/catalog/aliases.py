"""Writes about aliases: names of a project's own that move from one version of a fine-tuned model to the next."""

import re

from django.db.models import QuerySet
from django.db.models.functions import Now

from catalog.models import AliasMove, BaseModel, FineTunedModel, ModelAlias
from catalog.selectors import callable_models, model_not_found
from common.errors import HoneError, not_found
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import record

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = frozenset({"aliases"})
"""Names that are parts of routes."""
MAX_ALIASES = 1_000
"""Of a project: a batch notes all of them when it is created."""


def create_alias(*, project: Project, name: str, model: str, actor: str, request: CreateRequest) -> ModelAlias:
    """A new alias; a repetition of ``request`` gets the one made then. ``conflict`` when the name is taken."""
    with tenant_scope(project.organization_id):
        made = earlier(request, ModelAlias)
        if made is not None:
            return made
        alias = _create(project, name, model, actor)
        remember(request, alias)
    return alias


def promote_alias(*, project: Project, name: str, model: str, actor: str) -> ModelAlias:
    """Let an alias stand for another model, or come to be; what it stood for is kept for a rollback.

    What runs already is not changed by it. Repeating it is harmless.
    """
    with tenant_scope(project.organization_id):
        alias = _own(project, name).select_for_update(no_key=True).first()
        if alias is None:
            return _create(project, name, model, actor)
        target = _lock_target(project, model)
        if alias.target_id != target.id:
            _move(alias, target, AliasMove.Reason.PROMOTED, actor)
    return alias


def roll_back_alias(*, project: Project, name: str, actor: str) -> ModelAlias:
    """Let an alias stand for what it stood for before its last move. Doing it twice undoes it."""
    with tenant_scope(project.organization_id):
        alias = _own(project, name).select_for_update(no_key=True).first()
        if alias is None:
            raise not_found("alias", name, param="alias")
        if alias.previous_id is None:
            raise HoneError("conflict", f"'{name}' has always stood for the same model", param="alias")
        previous = FineTunedModel.objects.get(id=alias.previous_id)
        try:
            target = _lock_target(project, previous.name)
        except HoneError as error:
            raise HoneError(
                "conflict", f"'{name}' cannot go back: '{previous.name}' cannot be called any more", param="alias"
            ) from error
        _move(alias, target, AliasMove.Reason.ROLLED_BACK, actor)
    return alias


def delete_alias(*, project: Project, name: str, actor: str) -> None:
    """Let the name stand for nothing; batches that have been created before still know what it stood for."""
    with tenant_scope(project.organization_id):
        alias = _own(project, name).select_for_update().first()
        if alias is None:
            raise not_found("alias", name, param="alias")
        _record(alias, "deleted", actor, {"name": name})
        alias.delete()


def _create(project: Project, name: str, model: str, actor: str) -> ModelAlias:
    if not NAME.fullmatch(name) or name in RESERVED:
        raise HoneError(
            "invalid_value",
            "An alias is 1 to 64 letters, digits, '.', '_' and '-', and begins with a letter or a digit",
            param="alias",
        )
    if BaseModel.objects.filter(name=name).exists():
        raise HoneError("conflict", f"'{name}' is the name of a base model", param="alias")
    # The project's row, so that creates count one after the other and no name is made twice.
    Project.objects.select_for_update(no_key=True).get(id=project.id)
    if _own(project, name).exists():
        raise HoneError("conflict", f"There is an alias '{name}' already; move it with a POST to it", param="alias")
    if ModelAlias.objects.filter(project_id=project.id).count() >= MAX_ALIASES:
        raise HoneError("conflict", f"The project has {MAX_ALIASES} aliases; delete one first", param="alias")
    alias = ModelAlias.objects.create(
        organization_id=project.organization_id, project_id=project.id, name=name, target=_lock_target(project, model)
    )
    _note(alias, AliasMove.Reason.CREATED, actor)
    return alias


def _lock_target(project: Project, model: str) -> FineTunedModel:
    """A model that the project can call, kept from being deleted until the scope ends."""
    found = callable_models(project_id=project.id).filter(name=model) if "\0" not in model else None
    target = found.select_for_update(no_key=True, of=("self",)).first() if found is not None else None
    if target is None:
        raise model_not_found(model)
    return target


def _move(alias: ModelAlias, target: FineTunedModel, reason: AliasMove.Reason, actor: str) -> None:
    alias.previous_id, alias.target = alias.target_id, target
    alias.updated_at = Now()
    alias.save(update_fields=["previous", "target", "updated_at"])
    alias.refresh_from_db(fields=["updated_at"])
    _note(alias, reason, actor)


def _note(alias: ModelAlias, reason: AliasMove.Reason, actor: str) -> None:
    AliasMove.objects.create(
        organization_id=alias.organization_id,
        alias_id=alias.id,
        target_id=alias.target_id,
        reason=reason,
        actor=actor,
    )
    _record(alias, reason, actor, {"name": alias.name, "model": alias.target.name})


def _own(project: Project, name: str) -> QuerySet[ModelAlias]:
    return ModelAlias.objects.filter(project_id=project.id, name=name.replace("\0", ""))


def _record(alias: ModelAlias, what: str, actor: str, details: dict[str, str]) -> None:
    record(
        actor=actor,
        action=f"model_alias.{what}",
        subject=alias.wire_id,
        organization_id=alias.organization_id,
        project_id=alias.project_id,
        details=details,
    )
