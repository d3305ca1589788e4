"""Writes about service accounts, which own keys of a project without being a person."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db.models.functions import Now

from tenants.idempotency import CreateRequest, earlier, remember
from tenants.issuing import NewKey, issue_again
from tenants.models import ApiKey, Project, ServiceAccount
from tenants.permissions import PROJECT_SCOPES
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.selectors import get_project, get_service_account
from tenants.services import IssuedKey, create_api_key, record, revoke_key

FIRST_KEY = "Secret Key"
"""Name of the key that an account is made with, as OpenAI calls it."""


@dataclass(frozen=True)
class NewServiceAccount:
    """An account and, unless it was asked for alone, its first key with the token."""

    account: ServiceAccount
    issued: IssuedKey | None


def create_service_account(
    *,
    organization_id: UUID,
    project_wire_id: str,
    name: str,
    has_key: bool,
    lifetime: timedelta | None,
    actor: str,
    request: CreateRequest,
) -> NewServiceAccount:
    """An account of a project; with a key, it has the role *member* and the key all scopes."""
    with tenant_scope(organization_id):
        made = earlier(request, ServiceAccount)
        if made is not None:
            first = ApiKey.objects.filter(service_account_id=made.id).order_by("id").first() if has_key else None
            issued = issue_again(key=first, request=request, actor=actor) if first else None
            return NewServiceAccount(made, issued)
        project = lock_active_project(wire_id=project_wire_id)
        account = ServiceAccount.objects.create(
            organization_id=organization_id,
            project_id=project.id,
            name=name,
            role=ServiceAccount.Role.MEMBER if has_key else ServiceAccount.Role.NONE,
        )
        _record(account, "created", actor, {"name": name, "role": account.role})
        issued = None
        if has_key:
            new = NewKey(name=FIRST_KEY, lifetime=lifetime)
            issued = _issue(project=project, account=account, new=new, actor=actor, request=request)
        remember(request, account)
    return NewServiceAccount(account, issued)


def issue_account_key(
    *, organization_id: UUID, project_wire_id: str, wire_id: str, new: NewKey, actor: str, request: CreateRequest
) -> IssuedKey:
    """Another key of an account."""
    with tenant_scope(organization_id):
        made = earlier(request, ApiKey)
        if made is not None:
            return issue_again(key=made, request=request, actor=actor)
        project = lock_active_project(wire_id=project_wire_id)
        account = get_service_account(project=project, wire_id=wire_id, lock=True)
        issued = _issue(project=project, account=account, new=new, actor=actor, request=request)
        remember(request, issued.key)
    return issued


def update_service_account(
    *, organization_id: UUID, project_wire_id: str, wire_id: str, changes: dict[str, str], actor: str
) -> ServiceAccount:
    """Change what is named of ``name`` and ``role``."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        account = get_service_account(project=project, wire_id=wire_id, lock=True)
        different = {name: value for name, value in changes.items() if value != getattr(account, name)}
        if different:
            for name, value in different.items():
                setattr(account, name, value)
            account.save(update_fields=list(different))
            _record(account, "updated", actor, different)
    return account


def delete_service_account(*, organization_id: UUID, project_wire_id: str, wire_id: str, actor: str) -> None:
    """End an account and its keys; ``not_found`` when that is done."""
    with tenant_scope(organization_id):
        project = get_project(wire_id=project_wire_id)
        account = get_service_account(project=project, wire_id=wire_id, lock=True)
        for key in ApiKey.objects.filter(service_account_id=account.id, revoked_at=None):
            revoke_key(key=key, actor=actor)
        ServiceAccount.objects.filter(id=account.id).update(deleted_at=Now())
        _record(account, "deleted", actor)


def _issue(*, project: Project, account: ServiceAccount, new: NewKey, actor: str, request: CreateRequest) -> IssuedKey:
    return create_api_key(
        project=project,
        name=new.name,
        actor=actor,
        scopes=new.scopes or PROJECT_SCOPES,
        allowed_models=new.allowed_models,
        lifetime=new.lifetime,
        service_account_id=account.id,
    )


def _record(account: ServiceAccount, what: str, actor: str, details: dict[str, str] | None = None) -> None:
    record(
        actor=actor,
        action=f"service_account.{what}",
        subject=account.wire_id,
        organization_id=account.organization_id,
        project_id=account.project_id,
        details=details,
    )
