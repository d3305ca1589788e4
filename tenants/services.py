"""Writes about organisations, projects, members and keys; each with its audit row."""

from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Least, Now
from django.utils import timezone
from structlog.contextvars import get_contextvars

from accounts.services import get_or_create_user
from common.database import SYSTEM
from common.errors import HoneError
from common.ids import to_wire, uuid7
from tenants import known_keys
from tenants.keys import new_secret
from tenants.models import ApiKey, AuditEvent, Membership, Organization, Project, Role
from tenants.networks import checked_networks
from tenants.permissions import ADMIN_SCOPES, PROJECT_SCOPES
from tenants.scope import tenant_scope

SYSTEM_ACTOR = "system"
MAX_OVERLAP = timedelta(days=30)


@dataclass(frozen=True)
class IssuedKey:
    """A new key together with its token, which exists only here."""

    key: ApiKey
    token: str


@dataclass(frozen=True)
class NewOrganization:
    """What ``create_organization`` made."""

    organization: Organization
    membership: Membership
    project: Project
    api_key: IssuedKey
    admin_key: IssuedKey


def create_organization(
    *, name: str, owner_email: str, actor: str = SYSTEM_ACTOR, organization_id: UUID | None = None
) -> NewOrganization:
    """An organisation with its owner, a first project, a key for that project and an admin key.

    A caller that has more to do in the same transaction chooses the id and opens its scope.
    """
    if not 0 < len(name) <= 200 or not name.isprintable() or name.isspace():
        raise HoneError("invalid_value", "'name' must have 1 to 200 printable characters", param="name")
    owner = get_or_create_user(email=owner_email)
    organization = Organization(id=organization_id or uuid7(), name=name)
    with tenant_scope(organization.id):
        organization.save(force_insert=True)
        membership = Membership.objects.create(organization_id=organization.id, user_id=owner.id, role=Role.OWNER)
        project = Project.objects.create(organization_id=organization.id, name="Default project")
        record(
            actor=actor,
            action="organization.created",
            subject=organization.wire_id,
            organization_id=organization.id,
            details={"name": name, "owner": owner.email},
        )
        api_key = create_api_key(project=project, name="First key", actor=actor, created_by=owner.id)
        admin_key = create_admin_key(
            organization_id=organization.id, name="First admin key", actor=actor, created_by=owner.id
        )
    return NewOrganization(
        organization=organization, membership=membership, project=project, api_key=api_key, admin_key=admin_key
    )


def create_api_key(
    *,
    project: Project,
    name: str,
    actor: str,
    scopes: frozenset[str] = PROJECT_SCOPES,
    allowed_models: list[str] | None = None,
    allowed_ips: list[str] | None = None,
    lifetime: timedelta | None = None,
    created_by: UUID | None = None,
    service_account_id: UUID | None = None,
) -> IssuedKey:
    """A key of one project, with all its scopes and models and from anywhere unless fewer are named.

    Owned by a person or by a service account.
    """
    return _issue_key(
        kind=ApiKey.Kind.PROJECT,
        organization_id=project.organization_id,
        project_id=project.id,
        name=name,
        actor=actor,
        scopes=scopes,
        allowed_models=allowed_models,
        allowed_ips=allowed_ips,
        lifetime=lifetime,
        created_by=created_by,
        service_account_id=service_account_id,
    )


def create_admin_key(
    *,
    organization_id: UUID,
    name: str,
    actor: str,
    scopes: frozenset[str] = ADMIN_SCOPES,
    allowed_ips: list[str] | None = None,
    lifetime: timedelta | None = None,
    created_by: UUID | None = None,
) -> IssuedKey:
    """A key of the organisation's administration."""
    return _issue_key(
        kind=ApiKey.Kind.ADMIN,
        organization_id=organization_id,
        project_id=None,
        name=name,
        actor=actor,
        scopes=scopes,
        allowed_ips=allowed_ips,
        lifetime=lifetime,
        created_by=created_by,
    )


def session_key(*, membership: Membership, project: Project | None) -> ApiKey:
    """The key under which a signed-in member's calls (in a project) are booked: usage, creates, files.

    Made with the first of them, once for each member and project. It has no secret, and rights come from the role.
    """
    names = membership.id.bytes + (project.id.bytes if project else b"")
    with tenant_scope(membership.organization_id):
        key, _ = ApiKey.objects.get_or_create(
            public_id=sha256(names).hexdigest()[:32],
            defaults={
                "organization_id": membership.organization_id,
                "kind": ApiKey.Kind.SESSION,
                "project_id": project.id if project else None,
                "name": "Sessions of a member",
                "digest": b"",
                "scopes": [],
                "created_by_id": membership.user_id,
            },
        )
    return key


def revoke_key(*, key: ApiKey, actor: str) -> None:
    """End a key now, in every process within a second; revoking twice is the same as once."""
    with tenant_scope(key.organization_id):
        if ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=Now()):
            record(
                actor=actor,
                action="api_key.revoked",
                subject=key.wire_id,
                organization_id=key.organization_id,
                project_id=key.project_id,
            )


def known_scopes(*, kind: ApiKey.Kind, scopes: frozenset[str]) -> list[str]:
    """The scopes in order; ``invalid_value`` when there is none, or one that a key of this kind cannot have."""
    allowed = PROJECT_SCOPES if kind == ApiKey.Kind.PROJECT else ADMIN_SCOPES
    if not scopes or scopes - allowed:
        raise HoneError("invalid_value", f"A {kind} key takes scopes of: {', '.join(sorted(allowed))}", param="scopes")
    return sorted(scopes)


def set_allowed_ips(*, key: ApiKey, allowed_ips: list[str] | None, actor: str) -> None:
    """Bind a key to networks (CIDR notation, or single addresses), or to none: ``None``. ``invalid_value``."""
    networks = checked_networks(allowed_ips, param="allowed_ips")
    with tenant_scope(key.organization_id):
        if ApiKey.objects.filter(id=key.id).exclude(allowed_ips=networks).update(allowed_ips=networks):
            record(
                actor=actor,
                action="api_key.allowed_ips_set",
                subject=key.wire_id,
                organization_id=key.organization_id,
                details={"allowed_ips": networks},
            )


def rotate_key(*, key: ApiKey, overlap: timedelta, actor: str) -> IssuedKey:
    """Another key with the same rights, name and span of life; the old one expires after ``overlap``, if not before.

    ``invalid_value`` unless ``overlap`` is within 0 and :data:`MAX_OVERLAP`, ``conflict`` when the key has ended or
    been rotated: of two rotations of a key at the same time one makes a key.
    """
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise HoneError("invalid_value", f"Both keys may work for 0 to {MAX_OVERLAP.days} days", param="overlap")
    secret = new_secret(ApiKey.Kind(key.kind).token_prefix)
    with tenant_scope(key.organization_id):
        old = ApiKey.objects.select_for_update().annotate(now=Now()).get(id=key.id)
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= old.now):
            raise HoneError("conflict", "The key has been revoked or has expired; create another one")
        if old.rotated_at is not None:
            raise HoneError("conflict", "The key has been rotated; rotate the one that replaces it")
        successor = copy(old)  # whatever rights keys will have
        successor._state.adding = True
        successor.id = uuid7()
        successor.public_id = secret.public_id
        successor.digest = secret.digest
        successor.created_at = old.now
        successor.last_used_at = None
        if old.expires_at is not None:
            successor.expires_at = old.now + (old.expires_at - old.created_at)
        successor.save(force_insert=True)
        ApiKey.objects.filter(id=old.id).update(rotated_at=old.now, expires_at=Least(F("expires_at"), Now() + overlap))
        record(
            actor=actor,
            action="api_key.rotated",
            subject=old.wire_id,
            organization_id=old.organization_id,
            details={"successor": successor.wire_id, "overlap_seconds": int(overlap.total_seconds())},
        )
    return IssuedKey(key=successor, token=secret.token)


def set_organization_status(*, organization: Organization, status: Organization.Status, actor: str) -> None:
    """Suspend an organisation or let it work again. ``conflict`` when it has been deleted.

    Creates that are under way are waited for, later ones refused (:func:`tenants.idempotency.earlier`).
    """
    with tenant_scope(organization.id):
        alive = Organization.objects.filter(id=organization.id).exclude(status=Organization.Status.DELETED)
        if not alive.update(status=status):
            raise HoneError("conflict", "The organisation has been deleted", param="id")
        record(
            actor=actor,
            action=f"organization.{status}",
            subject=organization.wire_id,
            organization_id=organization.id,
        )


def note_key_use(*, key: ApiKey) -> None:
    """Keep ``last_used_at`` to the minute, behind the request; in it where the process has no link."""
    link = known_keys.link()
    if link is not None:
        link.note_use(key.id)
        return
    now = timezone.now()
    if key.last_used_at is None or (now - key.last_used_at).total_seconds() > 60:
        with transaction.atomic(using=SYSTEM):
            ApiKey.all_tenants.filter(id=key.id).update(last_used_at=now)


def record(
    *,
    actor: str,
    action: str,
    subject: str,
    organization_id: UUID,
    details: dict[str, Any] | None = None,
    project_id: UUID | None = None,
) -> None:
    """Write an audit row; call it in the transaction of the change. Never put a secret into ``details``."""
    AuditEvent.objects.create(
        organization_id=organization_id,
        actor=actor,
        action=action,
        subject=subject,
        project=to_wire(Project.ID_PREFIX, project_id) if project_id else "",
        details=details or {},
        request_id=get_contextvars().get("request_id", ""),
    )


def _issue_key(
    *,
    kind: ApiKey.Kind,
    organization_id: UUID,
    project_id: UUID | None,
    name: str,
    actor: str,
    scopes: frozenset[str],
    allowed_models: list[str] | None = None,
    allowed_ips: list[str] | None,
    lifetime: timedelta | None,
    created_by: UUID | None,
    service_account_id: UUID | None = None,
) -> IssuedKey:
    named = known_scopes(kind=kind, scopes=scopes)
    networks = checked_networks(allowed_ips, param="allowed_ips")
    secret = new_secret(kind.token_prefix)
    with tenant_scope(organization_id):
        key = ApiKey.objects.create(
            organization_id=organization_id,
            kind=kind,
            project_id=project_id,
            name=name,
            public_id=secret.public_id,
            digest=secret.digest,
            scopes=named,
            allowed_models=allowed_models,
            allowed_ips=networks,
            created_at=Now(),
            expires_at=Now() + lifetime if lifetime else None,
            created_by_id=created_by,
            service_account_id=service_account_id,
        )
        key.refresh_from_db(fields=["created_at", "expires_at"])
        record(
            actor=actor,
            action="api_key.created",
            subject=key.wire_id,
            organization_id=organization_id,
            project_id=project_id,
            details={"kind": kind, "name": name, "scopes": named},
        )
    return IssuedKey(key=key, token=secret.token)
