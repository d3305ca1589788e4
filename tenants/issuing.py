"""Keys as the administration API makes, changes and ends them. Their tokens are shown once."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from common.errors import HoneError
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.keys import new_secret
from tenants.models import ApiKey, Membership
from tenants.permissions import ADMIN_SCOPES, PROJECT_SCOPES
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.selectors import get_key_of, get_project, live_admin_keys, live_project_keys, owners
from tenants.services import IssuedKey, create_admin_key, create_api_key, known_scopes, record, revoke_key


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """What a caller asks for."""

    name: str
    scopes: frozenset[str] = frozenset()
    """Empty is all that the key can have."""
    allowed_models: list[str] | None = None
    lifetime: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class KeyChanges:
    """What is to be different, by name: ``name``, ``scopes``, ``allowed_models``, ``lifetime``, as in :class:`NewKey`.

    A dictionary, because None is a value: all models, no expiry.
    """

    values: dict[str, Any] = field(default_factory=dict)


def issue_admin_key(
    *,
    organization_id: UUID,
    new: NewKey,
    held: frozenset[str],
    created_by: UUID | None,
    actor: str,
    request: CreateRequest,
) -> IssuedKey:
    """An admin key with the scopes that the caller holds (``held``), or fewer; ``insufficient_scope`` for more."""
    scopes = new.scopes or held & ADMIN_SCOPES
    with tenant_scope(organization_id):
        made = earlier(request, ApiKey)
        if made is not None:
            return issue_again(key=made, request=request, actor=actor)
        beyond = sorted(scopes - held)
        if beyond:
            raise HoneError(
                "insufficient_scope", f"The key lacks the scope '{beyond[0]}', and cannot give it", param="scopes"
            )
        _check_owner(created_by)
        issued = create_admin_key(
            organization_id=organization_id,
            name=new.name,
            actor=actor,
            scopes=scopes,
            lifetime=new.lifetime,
            created_by=created_by,
        )
        remember(request, issued.key)
    return issued


def issue_project_key(
    *,
    organization_id: UUID,
    project_wire_id: str,
    new: NewKey,
    created_by: UUID | None,
    actor: str,
    request: CreateRequest,
) -> IssuedKey:
    """A key of a project, owned by the person behind the call."""
    with tenant_scope(organization_id):
        made = earlier(request, ApiKey)
        if made is not None:
            return issue_again(key=made, request=request, actor=actor)
        _check_owner(created_by)
        issued = create_api_key(
            project=lock_active_project(wire_id=project_wire_id),
            name=new.name,
            actor=actor,
            scopes=new.scopes or PROJECT_SCOPES,
            allowed_models=new.allowed_models,
            lifetime=new.lifetime,
            created_by=created_by,
        )
        remember(request, issued.key)
    return issued


def issue_again(*, key: ApiKey, request: CreateRequest, actor: str) -> IssuedKey:
    """What a repetition of a create gets: the key with another secret, since its own was shown and stored nowhere.

    Only a retry, whose answer has been lost, and only before the key was used; ``conflict`` otherwise.
    """
    keys = ApiKey.objects.prefetch_related(owners(), "service_account")
    locked = keys.select_for_update(no_key=True).get(id=key.id)
    if not request.is_retry or locked.last_used_at is not None or locked.revoked_at is not None:
        raise HoneError(
            "conflict",
            f"This request has made {key.wire_id} before, whose value was shown then; make another one if it is lost",
        )
    secret = new_secret(ApiKey.Kind(locked.kind).token_prefix)
    locked.public_id, locked.digest = secret.public_id, secret.digest
    locked.save(update_fields=["public_id", "digest"])
    _record(locked, "updated", actor, {"secret": "replaced"})
    return IssuedKey(key=locked, token=secret.token)


def update_project_key(
    *, organization_id: UUID, project_wire_id: str, wire_id: str, changes: KeyChanges, actor: str
) -> ApiKey:
    """Change a key of a project; the lifetime counts from now. ``conflict`` when it has expired."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        key = get_key_of(live_project_keys(project=project), wire_id=wire_id, lock=True)
        if not ApiKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), id=key.id).exists():
            raise HoneError("conflict", "The key has expired; create another one", param="api_key_id")
        values = dict(changes.values)
        details: dict[str, Any] = {name: values[name] for name in ("name", "allowed_models") if name in values}
        if "scopes" in values:
            scopes = known_scopes(kind=ApiKey.Kind.PROJECT, scopes=values["scopes"] or PROJECT_SCOPES)
            values["scopes"] = details["scopes"] = scopes
        if "lifetime" in values:
            lifetime: timedelta | None = values.pop("lifetime")
            values["expires_at"] = None if lifetime is None else Now() + lifetime
            details["expires_in_seconds"] = None if lifetime is None else int(lifetime.total_seconds())
        if values:
            ApiKey.objects.filter(id=key.id).update(**values)
            _record(key, "updated", actor, details)
        return get_key_of(live_project_keys(project=project), wire_id=wire_id)


def delete_project_key(*, organization_id: UUID, project_wire_id: str, wire_id: str, actor: str) -> None:
    """End a key of a project; ``not_found`` when that is done."""
    with tenant_scope(organization_id):
        project = get_project(wire_id=project_wire_id)
        revoke_key(key=get_key_of(live_project_keys(project=project), wire_id=wire_id, lock=True), actor=actor)


def delete_admin_key(*, organization_id: UUID, wire_id: str, actor: str) -> None:
    """End an admin key; ``not_found`` when that is done."""
    with tenant_scope(organization_id):
        revoke_key(key=get_key_of(live_admin_keys(), wire_id=wire_id, lock=True), actor=actor)


def _check_owner(user_id: UUID | None) -> None:
    """Who has been removed since the caller was let in makes no more keys. Removals wait for creates, or these see it.

    Call after :func:`tenants.idempotency.earlier`, which holds the organisation's row.
    """
    if user_id is not None and not Membership.objects.filter(user_id=user_id).exists():
        raise HoneError("invalid_api_key", "The key has been revoked; create another one")


def _record(key: ApiKey, what: str, actor: str, details: dict[str, Any]) -> None:
    record(
        actor=actor,
        action=f"api_key.{what}",
        subject=key.wire_id,
        organization_id=key.organization_id,
        project_id=key.project_id,
        details=details,
    )
