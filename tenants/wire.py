"""Administration as JSON: what requests may hold, and the objects that answer them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.models import User
from common.http import StrictSerializer
from common.ids import to_wire
from tenants.models import (
    ApiKey,
    Invite,
    Membership,
    Project,
    ProjectMembership,
    ProjectRole,
    Role,
    ServiceAccount,
)
from tenants.permissions import ADMIN_SCOPES, PROJECT_SCOPES, ROLE_SCOPES
from tenants.service_accounts import NewServiceAccount
from tenants.services import IssuedKey

MAX_LIFETIME_SECONDS = 10 * 366 * 86_400
READER = "reader"
"""OpenAI's word for everybody who is no owner; as a role to give it is our viewer."""


class NameField(serializers.CharField):
    """1 to 200 printable characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=200, help_text="Printable characters.", **options)

    def to_internal_value(self, data: Any) -> str:
        """Check them."""
        name: str = super().to_internal_value(data)
        if not name.isprintable():
            raise serializers.ValidationError("must have printable characters only")
        return name


@extend_schema_field({"type": "integer", "minimum": 1, "maximum": MAX_LIFETIME_SECONDS})
class LifetimeField(serializers.IntegerField):
    """Seconds, as a duration inside."""

    def to_internal_value(self, data: Any) -> timedelta:  # type: ignore[override]  # the point of the field
        """A duration."""
        number = super().to_internal_value(data)
        if not 1 <= number <= MAX_LIFETIME_SECONDS:
            raise serializers.ValidationError(f"must be from 1 to {MAX_LIFETIME_SECONDS} seconds")
        return timedelta(seconds=number)


class RoleField(serializers.ChoiceField):
    """One of our roles, or OpenAI's ``reader``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(choices=[*Role.values, READER], **options)

    def to_internal_value(self, data: Any) -> Role:
        """A role of ours."""
        name = super().to_internal_value(data)
        return Role.VIEWER if name == READER else Role(name)


@extend_schema_field({"type": "string", "format": "email"})
class AddressField(serializers.CharField):
    """An e-mail address, which is judged where it is used."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=254, **options)


class ScopesField(serializers.ListField):
    """Names of scopes; an empty list is all."""

    child = serializers.CharField(max_length=64)

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=100, **options)

    def to_internal_value(self, data: Any) -> frozenset[str]:  # type: ignore[override]  # the point of the field
        """A set."""
        return frozenset(super().to_internal_value(data))


@extend_schema_field({"type": "array", "items": {"type": "string", "enum": sorted(ADMIN_SCOPES)}})
class AdminScopesField(ScopesField):
    """Of an admin key."""


@extend_schema_field({"type": "array", "items": {"type": "string", "enum": sorted(PROJECT_SCOPES)}})
class ProjectScopesField(ScopesField):
    """Of a project's key."""


class ModelsField(serializers.ListField):
    """Names of models; null is all."""

    child = serializers.CharField(max_length=200)

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=100, allow_null=True, **options)


class NameSerializer(StrictSerializer):
    """Body of creating and renaming a project."""

    name = NameField()


class KeySerializer(StrictSerializer):
    """What all keys are made of."""

    name = NameField()
    expires_in_seconds = LifetimeField(required=False, allow_null=True, source="lifetime")


class CreateAdminKeySerializer(KeySerializer):
    """Body of ``POST /v1/organization/admin_api_keys``; ``scopes`` is ours."""

    scopes = AdminScopesField(required=False)


class CreateProjectKeySerializer(KeySerializer):
    """Body of ``POST .../projects/{id}/api_keys``, which is ours."""

    scopes = ProjectScopesField(required=False)
    allowed_models = ModelsField(required=False)


class UpdateProjectKeySerializer(CreateProjectKeySerializer):
    """Body of ``POST .../projects/{id}/api_keys/{id}``: every member may be left out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "partial": True})


class CreateAccountKeySerializer(CreateProjectKeySerializer):
    """Body of ``POST .../service_accounts/{id}/api_keys``."""

    name = NameField(required=False, default="Secret Key")


class CreateServiceAccountSerializer(StrictSerializer):
    """Body of ``POST .../projects/{id}/service_accounts``."""

    name = NameField()
    create_service_account_only = serializers.BooleanField(required=False, allow_null=True)
    expires_in_seconds = LifetimeField(required=False, allow_null=True, source="lifetime")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Without a key there is nothing that could expire."""
        if attrs.get("create_service_account_only") and attrs.get("lifetime"):
            raise serializers.ValidationError({"expires_in_seconds": "not with create_service_account_only"})
        return attrs


class UpdateServiceAccountSerializer(StrictSerializer):
    """Body of ``POST .../service_accounts/{id}``."""

    name = NameField(required=False)
    role = serializers.ChoiceField(choices=ProjectRole.values, required=False)


class UpdateUserSerializer(StrictSerializer):
    """Body of ``POST /v1/organization/users/{id}``."""

    role = RoleField()


class ProjectRoleSerializer(StrictSerializer):
    """Body of ``POST .../projects/{id}/users/{id}``."""

    role = serializers.ChoiceField(choices=ProjectRole.values)


class AddProjectUserSerializer(ProjectRoleSerializer):
    """Body of ``POST .../projects/{id}/users``."""

    user_id = serializers.CharField(max_length=100, required=False, allow_null=True)
    email = AddressField(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Somebody is named, in one way."""
        if (attrs.get("user_id") is None) == (attrs.get("email") is None):
            raise serializers.ValidationError({"user_id": "give either 'user_id' or 'email'"})
        return attrs


class InviteProjectSerializer(StrictSerializer):
    """One project of an invitation."""

    id = serializers.CharField(max_length=100)
    role = serializers.ChoiceField(choices=ProjectRole.values)


class CreateInviteSerializer(StrictSerializer):
    """Body of ``POST /v1/organization/invites``."""

    email = AddressField()
    role = RoleField()
    projects = serializers.ListField(child=InviteProjectSerializer(), required=False, max_length=100)


def render_admin_key(key: ApiKey, roles: dict[UUID, str]) -> dict[str, Any]:
    """The wire object; ``scopes`` is ours."""
    owner: dict[str, Any] = {"type": None}
    if key.created_by is not None:
        owner = {
            "type": "user",
            "object": "organization.user",
            "id": _user_id(key.created_by),
            "name": key.created_by.name,
            "created_at": seconds(key.created_by.created_at),
            "role": roles.get(key.created_by.id),
        }
    return {
        "id": key.wire_id,
        "object": "organization.admin_api_key",
        "name": key.name,
        "redacted_value": _redacted(key),
        "created_at": seconds(key.created_at),
        "expires_at": _maybe(key.expires_at),
        "last_used_at": _maybe(key.last_used_at),
        "owner": owner,
        "scopes": key.scopes,
    }


def render_project_key(key: ApiKey, roles: dict[UUID, str]) -> dict[str, Any]:
    """The wire object; ``scopes`` and ``allowed_models`` are ours."""
    owner: dict[str, Any] = {"type": None}
    if key.service_account is not None:
        account = key.service_account
        owner = {
            "type": "service_account",
            "service_account": {
                "id": account.wire_id,
                "name": account.name,
                "created_at": seconds(account.created_at),
                "role": account.role,
            },
        }
    elif key.created_by is not None:
        user = key.created_by
        owner = {
            "type": "user",
            "user": {
                "id": _user_id(user),
                "name": user.name,
                "email": user.email,
                "created_at": seconds(user.created_at),
                "role": roles.get(user.id, ""),
            },
        }
    is_ownerless = key.created_by_id is None or key.created_by is not None
    return {
        "id": key.wire_id,
        "object": "organization.project.api_key",
        "name": key.name,
        "redacted_value": _redacted(key),
        "created_at": seconds(key.created_at),
        "expires_at": _maybe(key.expires_at),
        "last_used_at": _maybe(key.last_used_at),
        "owner": owner,
        "owner_project_access": "active" if is_ownerless else "inactive",
        "scopes": key.scopes,
        "allowed_models": key.allowed_models,
    }


def render_account_key(issued: IssuedKey) -> dict[str, Any]:
    """A key of a service account with its value, for the one answer that shows it."""
    return {
        "id": issued.key.wire_id,
        "object": "organization.project.service_account.api_key",
        "name": issued.key.name,
        "created_at": seconds(issued.key.created_at),
        "expires_at": _maybe(issued.key.expires_at),
        "value": issued.token,
    }


def render_service_account(account: ServiceAccount) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": account.wire_id,
        "object": "organization.project.service_account",
        "name": account.name,
        "role": account.role,
        "created_at": seconds(account.created_at),
    }


def render_new_service_account(new: NewServiceAccount) -> dict[str, Any]:
    """The wire object with its key's value, for the one answer that shows it."""
    key = render_account_key(new.issued) if new.issued else None
    return {**render_service_account(new.account), "api_key": key}


def render_project(project: Project) -> dict[str, Any]:
    """The wire object."""
    return {
        "id": project.wire_id,
        "object": "organization.project",
        "name": project.name,
        "status": project.status,
        "created_at": seconds(project.created_at),
        "archived_at": _maybe(project.archived_at),
    }


def render_user(member: Membership) -> dict[str, Any]:
    """The wire object; ``role`` is one of ours."""
    user = member.user
    return {
        "id": _user_id(user),
        "object": "organization.user",
        "name": user.name,
        "email": user.email,
        "role": member.role,
        "added_at": seconds(member.created_at),
        "created": seconds(user.created_at),
        "user": {"id": _user_id(user), "object": "user", "name": user.name, "email": user.email},
    }


def render_project_user(member: ProjectMembership) -> dict[str, Any]:
    """The wire object."""
    user = member.membership.user
    return {
        "id": _user_id(user),
        "object": "organization.project.user",
        "name": user.name,
        "email": user.email,
        "role": member.role,
        "added_at": seconds(member.created_at),
    }


def render_invite(invite: Invite, now: datetime) -> dict[str, Any]:
    """The wire object: ``role`` in OpenAI's two words, ``organization_role`` in ours."""
    status = "accepted" if invite.accepted_at else "expired" if invite.expires_at <= now else "pending"
    return {
        "id": invite.wire_id,
        "object": "organization.invite",
        "email": invite.email,
        "role": Role.OWNER.value if invite.role == Role.OWNER else READER,
        "organization_role": invite.role,
        "status": status,
        "projects": invite.projects,
        "created_at": seconds(invite.created_at),
        "expires_at": seconds(invite.expires_at),
        "accepted_at": _maybe(invite.accepted_at),
    }


def render_role(role: Role) -> dict[str, Any]:
    """The wire object: a role and the scopes it grants."""
    return {
        "id": f"role-{role}",
        "object": "role",
        "name": role.value,
        "description": None,
        "permissions": sorted(ROLE_SCOPES[role]),
        "predefined_role": True,
        "resource_type": "api.organization",
    }


def seconds(moment: datetime) -> int:
    """As the API writes moments."""
    return int(moment.timestamp())


def _redacted(key: ApiKey) -> str:
    return f"{ApiKey.Kind(key.kind).token_prefix}{key.public_id}_***"


def _user_id(user: User) -> str:
    return to_wire(User.ID_PREFIX, user.id)


def _maybe(moment: datetime | None) -> int | None:
    return seconds(moment) if moment else None
