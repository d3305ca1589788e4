"""``/v1/organization``: admin keys, users, invitations, roles, audit log."""

from typing import Any, ClassVar

from django.http import QueryDict
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from common import query as read
from common.http import parsed
from common.pagination import page_limit, page_request, paginate, two_way_page_request
from tenants import contracts
from tenants.access import TenantAPIView
from tenants.audit import AuditFilter, actors_of, audit_events, render_audit_event
from tenants.invites import NewInvite, create_invite, delete_invite
from tenants.issuing import NewKey, delete_admin_key, issue_admin_key
from tenants.members import change_role, remove_member
from tenants.models import ApiKey, AuditEvent, Invite, ProjectRole, Role
from tenants.scope import tenant_scope
from tenants.selectors import get_invite, get_key_of, get_member, live_admin_keys, members, roles_of_owners
from tenants.wire import (
    CreateAdminKeySerializer,
    CreateInviteSerializer,
    UpdateUserSerializer,
    render_admin_key,
    render_invite,
    render_role,
    render_user,
)


class AdminKeyListView(TenantAPIView):
    """Create an admin key; list them."""

    operations: ClassVar = {"POST": "admin_keys.create", "GET": "admin_keys.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_ADMIN_KEY, "GET": contracts.LIST_ADMIN_KEYS}

    def post(self, request: Request) -> Response:
        """Create; the answer alone shows the value."""
        new = NewKey(**parsed(CreateAdminKeySerializer, request))
        issued = issue_admin_key(
            organization_id=self.principal.organization_id,
            new=new,
            held=self.principal.scopes,
            created_by=self.principal.user_id,
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response({**_shown_admin_key(issued.key), "value": issued.token})

    def get(self, request: Request) -> Response:
        """One page, newest first unless ``order`` says otherwise."""
        wanted = page_request(request.query_params.dict(), prefix=ApiKey.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(live_admin_keys(), wanted)
            roles = roles_of_owners(keys=page.items)
        return Response(page.render(lambda key: render_admin_key(key, roles)))


class AdminKeyView(TenantAPIView):
    """One admin key."""

    operations: ClassVar = {"GET": "admin_keys.retrieve", "DELETE": "admin_keys.delete"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_ADMIN_KEY, "DELETE": contracts.DELETE_ADMIN_KEY}

    def get(self, request: Request, key_id: str) -> Response:
        """The key object."""
        with tenant_scope(self.principal.organization_id):
            return Response(_shown_admin_key(get_key_of(live_admin_keys(), wire_id=key_id)))

    def delete(self, request: Request, key_id: str) -> Response:
        """End it."""
        delete_admin_key(
            organization_id=self.principal.organization_id, wire_id=key_id, actor=self.principal.actor
        )  # fmt: skip
        return Response({"id": key_id, "object": "organization.admin_api_key.deleted", "deleted": True})


class UserListView(TenantAPIView):
    """The members."""

    operations: ClassVar = {"GET": "users.list"}
    contracts: ClassVar = {"GET": contracts.LIST_USERS}

    def get(self, request: Request) -> Response:
        """One page, newest first; ``emails`` narrows it down."""
        wanted = page_request(request.query_params.dict(), prefix=User.ID_PREFIX)
        emails = read.texts(request.query_params, "emails")
        with tenant_scope(self.principal.organization_id):
            page = paginate(members(emails=emails), wanted, key="user_id")
        return Response(page.render(render_user))


class UserView(TenantAPIView):
    """One member."""

    operations: ClassVar = {"GET": "users.retrieve", "POST": "users.update", "DELETE": "users.delete"}
    contracts: ClassVar = {
        "GET": contracts.RETRIEVE_USER,
        "POST": contracts.UPDATE_USER,
        "DELETE": contracts.DELETE_USER,
    }

    def get(self, request: Request, user_id: str) -> Response:
        """The user object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_user(get_member(wire_id=user_id)))

    def post(self, request: Request, user_id: str) -> Response:
        """Another role."""
        member = change_role(
            organization_id=self.principal.organization_id,
            user_wire_id=user_id,
            role=parsed(UpdateUserSerializer, request)["role"],
            held=self.principal.scopes,
            actor=self.principal.actor,
        )
        return Response(render_user(member))

    def delete(self, request: Request, user_id: str) -> Response:
        """Out of the organisation; the keys that the person owns end."""
        remove_member(
            organization_id=self.principal.organization_id,
            user_wire_id=user_id,
            held=self.principal.scopes,
            actor=self.principal.actor,
        )
        return Response({"id": user_id, "object": "organization.user.deleted", "deleted": True})


class InviteListView(TenantAPIView):
    """Invite somebody; list invitations."""

    operations: ClassVar = {"POST": "invites.create", "GET": "invites.list"}
    contracts: ClassVar = {"POST": contracts.CREATE_INVITE, "GET": contracts.LIST_INVITES}

    def post(self, request: Request) -> Response:
        """Invite; the mail follows."""
        data = parsed(CreateInviteSerializer, request)
        projects = {project["id"]: ProjectRole(project["role"]) for project in data.get("projects", [])}
        invite = create_invite(
            organization_id=self.principal.organization_id,
            new=NewInvite(email=data["email"], role=data["role"], projects=projects),
            held=self.principal.scopes,
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response(render_invite(invite, timezone.now()))

    def get(self, request: Request) -> Response:
        """One page, newest first, accepted and expired ones included."""
        wanted = page_request(request.query_params.dict(), prefix=Invite.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(Invite.objects.all(), wanted)
        now = timezone.now()
        return Response(page.render(lambda invite: render_invite(invite, now)))


class InviteView(TenantAPIView):
    """One invitation."""

    operations: ClassVar = {"GET": "invites.retrieve", "DELETE": "invites.delete"}
    contracts: ClassVar = {"GET": contracts.RETRIEVE_INVITE, "DELETE": contracts.DELETE_INVITE}

    def get(self, request: Request, invite_id: str) -> Response:
        """The invite object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_invite(get_invite(wire_id=invite_id), timezone.now()))

    def delete(self, request: Request, invite_id: str) -> Response:
        """Take it back."""
        delete_invite(organization_id=self.principal.organization_id, wire_id=invite_id, actor=self.principal.actor)
        return Response({"id": invite_id, "object": "organization.invite.deleted", "deleted": True})


class RoleListView(TenantAPIView):
    """The roles that members can have; nobody adds to them."""

    operations: ClassVar = {"GET": "roles.list"}
    contracts: ClassVar = {"GET": contracts.LIST_ROLES}

    def get(self, request: Request) -> Response:
        """One page, the mightiest first; the cursor of the next one is ``next``."""
        query = request.query_params.dict()
        limit = page_limit(query, max_limit=1_000, default_limit=1_000)
        ids = [f"role-{role}" for role in Role]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        data = [render_role(role) for role in list(Role)[start : start + limit]]
        has_more = start + limit < len(ids)
        return Response(
            {"object": "list", "data": data, "has_more": has_more, "next": data[-1]["id"] if has_more else None}
        )


class AuditLogListView(TenantAPIView):
    """The audit trail."""

    operations: ClassVar = {"GET": "audit_logs.list"}
    contracts: ClassVar = {"GET": contracts.LIST_AUDIT_LOGS}

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        query = request.query_params
        wanted = two_way_page_request(query.dict(), prefix=AuditEvent.ID_PREFIX)
        narrowed = _audit_filter(query)
        with tenant_scope(self.principal.organization_id):
            page = paginate(audit_events(wanted=narrowed), wanted)
            actors = actors_of(events=page.items)
        return Response(page.render(lambda event: render_audit_event(event, actors)))


def _shown_admin_key(key: ApiKey) -> dict[str, Any]:
    with tenant_scope(key.organization_id):
        return render_admin_key(key, roles_of_owners(keys=[key]))


def _audit_filter(query: QueryDict) -> AuditFilter:
    bounds = {name: read.seconds(query, f"effective_at[{name}]") for name in ("gt", "gte", "lt", "lte")}
    return AuditFilter(
        event_types=read.texts(query, "event_types"),
        includes_all=read.flag(query, "include_all") or False,
        actor_ids=read.texts(query, "actor_ids"),
        actor_emails=read.texts(query, "actor_emails"),
        project_ids=read.texts(query, "project_ids"),
        resource_ids=read.texts(query, "resource_ids"),
        bounds={name: value for name, value in bounds.items() if value is not None},
    )
