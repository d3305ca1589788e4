"""``/v1/organization/projects``: projects, who takes part in them, their service accounts and keys."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from common import query as read
from common.errors import HoneError
from common.http import NoParametersSerializer, parsed
from common.pagination import page_request, paginate
from tenants import project_contracts
from tenants.access import TenantAPIView
from tenants.issuing import KeyChanges, NewKey, delete_project_key, issue_project_key, update_project_key
from tenants.members import add_project_member, change_project_role, remove_project_member
from tenants.models import ApiKey, Project, ProjectRole, ServiceAccount
from tenants.project_contracts import OWNER_ACCESS
from tenants.projects import archive_project, create_project, rename_project
from tenants.scope import tenant_scope
from tenants.selectors import (
    get_key_of,
    get_project,
    get_project_member,
    get_service_account,
    live_project_keys,
    live_service_accounts,
    project_members,
    projects_seen,
    roles_of_owners,
)
from tenants.service_accounts import (
    create_service_account,
    delete_service_account,
    issue_account_key,
    update_service_account,
)
from tenants.wire import (
    AddProjectUserSerializer,
    CreateAccountKeySerializer,
    CreateProjectKeySerializer,
    CreateServiceAccountSerializer,
    NameSerializer,
    ProjectRoleSerializer,
    UpdateProjectKeySerializer,
    UpdateServiceAccountSerializer,
    render_account_key,
    render_new_service_account,
    render_project,
    render_project_key,
    render_project_user,
    render_service_account,
)


class ProjectListView(TenantAPIView):
    """Create a project; list them."""

    operations: ClassVar = {"POST": "projects.create", "GET": "projects.list"}
    contracts: ClassVar = {"POST": project_contracts.CREATE_PROJECT, "GET": project_contracts.LIST_PROJECTS}

    def post(self, request: Request) -> Response:
        """Create."""
        project = create_project(
            organization_id=self.principal.organization_id,
            name=parsed(NameSerializer, request)["name"],
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response(render_project(project))

    def get(self, request: Request) -> Response:
        """One page, newest first; archived ones with ``include_archived``."""
        wanted = page_request(request.query_params.dict(), prefix=Project.ID_PREFIX)
        includes_archived = read.flag(request.query_params, "include_archived")
        with tenant_scope(self.principal.organization_id):
            projects = projects_seen(caller=self.principal.caller)
            if not includes_archived:
                projects = projects.filter(status=Project.Status.ACTIVE)
            page = paginate(projects, wanted)
        return Response(page.render(render_project))


class ProjectView(TenantAPIView):
    """One project."""

    operations: ClassVar = {"GET": "projects.retrieve", "POST": "projects.update"}
    contracts: ClassVar = {"GET": project_contracts.RETRIEVE_PROJECT, "POST": project_contracts.UPDATE_PROJECT}

    def get(self, request: Request, project_id: str) -> Response:
        """The project object."""
        with tenant_scope(self.principal.organization_id):
            return Response(render_project(get_project(wire_id=project_id)))

    def post(self, request: Request, project_id: str) -> Response:
        """Another name."""
        project = rename_project(
            organization_id=self.principal.organization_id,
            wire_id=project_id,
            name=parsed(NameSerializer, request)["name"],
            actor=self.principal.actor,
        )
        return Response(render_project(project))


class ProjectArchiveView(TenantAPIView):
    """The end of a project."""

    operations: ClassVar = {"POST": "projects.archive"}
    contracts: ClassVar = {"POST": project_contracts.ARCHIVE_PROJECT}

    def post(self, request: Request, project_id: str) -> Response:
        """Archive it, for ever."""
        parsed(NoParametersSerializer, request)
        project = archive_project(
            organization_id=self.principal.organization_id, wire_id=project_id, actor=self.principal.actor
        )
        return Response(render_project(project))


class ProjectUserListView(TenantAPIView):
    """Add somebody to a project; list who takes part."""

    operations: ClassVar = {"POST": "project_users.create", "GET": "project_users.list"}
    contracts: ClassVar = {"POST": project_contracts.ADD_PROJECT_USER, "GET": project_contracts.LIST_PROJECT_USERS}

    def post(self, request: Request, project_id: str) -> Response:
        """Add a member of the organisation."""
        data = parsed(AddProjectUserSerializer, request)
        member = add_project_member(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            user_wire_id=data.get("user_id"),
            email=data.get("email"),
            role=ProjectRole(data["role"]),
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response(render_project_user(member))

    def get(self, request: Request, project_id: str) -> Response:
        """One page, newest user first."""
        wanted = page_request(request.query_params.dict(), prefix=User.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            found = project_members(project_id=get_project(wire_id=project_id).id)
            page = paginate(found, wanted, key="membership__user_id")
        return Response(page.render(render_project_user))


class ProjectUserView(TenantAPIView):
    """Somebody's part in a project."""

    operations: ClassVar = {
        "GET": "project_users.retrieve",
        "POST": "project_users.update",
        "DELETE": "project_users.delete",
    }
    contracts: ClassVar = {
        "GET": project_contracts.RETRIEVE_PROJECT_USER,
        "POST": project_contracts.UPDATE_PROJECT_USER,
        "DELETE": project_contracts.DELETE_PROJECT_USER,
    }

    def get(self, request: Request, project_id: str, user_id: str) -> Response:
        """The user object."""
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            return Response(render_project_user(get_project_member(project_id=project.id, user_wire_id=user_id)))

    def post(self, request: Request, project_id: str, user_id: str) -> Response:
        """Another role."""
        member = change_project_role(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            user_wire_id=user_id,
            role=ProjectRole(parsed(ProjectRoleSerializer, request)["role"]),
            actor=self.principal.actor,
        )
        return Response(render_project_user(member))

    def delete(self, request: Request, project_id: str, user_id: str) -> Response:
        """Out of the project."""
        remove_project_member(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            user_wire_id=user_id,
            actor=self.principal.actor,
        )
        return Response({"id": user_id, "object": "organization.project.user.deleted", "deleted": True})


class ServiceAccountListView(TenantAPIView):
    """Create a service account; list those of a project."""

    operations: ClassVar = {"POST": "service_accounts.create", "GET": "service_accounts.list"}
    contracts: ClassVar = {
        "POST": project_contracts.CREATE_SERVICE_ACCOUNT,
        "GET": project_contracts.LIST_SERVICE_ACCOUNTS,
    }

    def post(self, request: Request, project_id: str) -> Response:
        """Create; the answer alone shows the key's value."""
        data = parsed(CreateServiceAccountSerializer, request)
        new = create_service_account(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            name=data["name"],
            has_key=not data.get("create_service_account_only"),
            lifetime=data.get("lifetime"),
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response(render_new_service_account(new))

    def get(self, request: Request, project_id: str) -> Response:
        """One page, newest first."""
        wanted = page_request(request.query_params.dict(), prefix=ServiceAccount.ID_PREFIX)
        with tenant_scope(self.principal.organization_id):
            page = paginate(live_service_accounts(project=get_project(wire_id=project_id)), wanted)
        return Response(page.render(render_service_account))


class ServiceAccountView(TenantAPIView):
    """One service account."""

    operations: ClassVar = {
        "GET": "service_accounts.retrieve",
        "POST": "service_accounts.update",
        "DELETE": "service_accounts.delete",
    }
    contracts: ClassVar = {
        "GET": project_contracts.RETRIEVE_SERVICE_ACCOUNT,
        "POST": project_contracts.UPDATE_SERVICE_ACCOUNT,
        "DELETE": project_contracts.DELETE_SERVICE_ACCOUNT,
    }

    def get(self, request: Request, project_id: str, service_account_id: str) -> Response:
        """The service account object."""
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            return Response(render_service_account(get_service_account(project=project, wire_id=service_account_id)))

    def post(self, request: Request, project_id: str, service_account_id: str) -> Response:
        """Another name or role."""
        account = update_service_account(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=service_account_id,
            changes=parsed(UpdateServiceAccountSerializer, request),
            actor=self.principal.actor,
        )
        return Response(render_service_account(account))

    def delete(self, request: Request, project_id: str, service_account_id: str) -> Response:
        """End it and its keys."""
        delete_service_account(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=service_account_id,
            actor=self.principal.actor,
        )
        deleted = "organization.project.service_account.deleted"
        return Response({"id": service_account_id, "object": deleted, "deleted": True})


class AccountKeyListView(TenantAPIView):
    """Keys of a service account."""

    operations: ClassVar = {"POST": "service_accounts.create_key"}
    contracts: ClassVar = {"POST": project_contracts.CREATE_ACCOUNT_KEY}

    def post(self, request: Request, project_id: str, service_account_id: str) -> Response:
        """Create another; the answer alone shows the value."""
        issued = issue_account_key(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=service_account_id,
            new=NewKey(**parsed(CreateAccountKeySerializer, request)),
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response(render_account_key(issued))


class ProjectKeyListView(TenantAPIView):
    """Create a key of a project; list them."""

    operations: ClassVar = {"POST": "project_keys.create", "GET": "project_keys.list"}
    contracts: ClassVar = {"POST": project_contracts.CREATE_PROJECT_KEY, "GET": project_contracts.LIST_PROJECT_KEYS}

    def post(self, request: Request, project_id: str) -> Response:
        """Create; the answer alone shows the value."""
        issued = issue_project_key(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            new=NewKey(**parsed(CreateProjectKeySerializer, request)),
            created_by=self.principal.user_id,
            actor=self.principal.actor,
            request=self.create_request(request.data),
        )
        return Response({**_shown(issued.key), "value": issued.token})

    def get(self, request: Request, project_id: str) -> Response:
        """One page, newest first; ``owner_project_access`` narrows it down."""
        query = request.query_params.dict()
        wanted = page_request(query, prefix=ApiKey.ID_PREFIX)
        access = query.get("owner_project_access", "any")
        if access not in OWNER_ACCESS:
            param = "owner_project_access"
            raise HoneError("invalid_value", f"'{param}' must be one of {', '.join(OWNER_ACCESS)}", param=param)
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            page = paginate(live_project_keys(project=project, has_access=OWNER_ACCESS[access]), wanted)
            roles = roles_of_owners(keys=page.items)
        return Response(page.render(lambda key: render_project_key(key, roles)))


class ProjectKeyView(TenantAPIView):
    """One key of a project."""

    operations: ClassVar = {
        "GET": "project_keys.retrieve",
        "POST": "project_keys.update",
        "DELETE": "project_keys.delete",
    }
    contracts: ClassVar = {
        "GET": project_contracts.RETRIEVE_PROJECT_KEY,
        "POST": project_contracts.UPDATE_PROJECT_KEY,
        "DELETE": project_contracts.DELETE_PROJECT_KEY,
    }

    def get(self, request: Request, project_id: str, api_key_id: str) -> Response:
        """The key object."""
        with tenant_scope(self.principal.organization_id):
            project = get_project(wire_id=project_id)
            return Response(_shown(get_key_of(live_project_keys(project=project), wire_id=api_key_id)))

    def post(self, request: Request, project_id: str, api_key_id: str) -> Response:
        """Change what is named."""
        key = update_project_key(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=api_key_id,
            changes=KeyChanges(values=parsed(UpdateProjectKeySerializer, request)),
            actor=self.principal.actor,
        )
        return Response(_shown(key))

    def delete(self, request: Request, project_id: str, api_key_id: str) -> Response:
        """End it."""
        delete_project_key(
            organization_id=self.principal.organization_id,
            project_wire_id=project_id,
            wire_id=api_key_id,
            actor=self.principal.actor,
        )
        return Response({"id": api_key_id, "object": "organization.project.api_key.deleted", "deleted": True})


def _shown(key: ApiKey) -> dict[str, Any]:
    with tenant_scope(key.organization_id):
        return render_project_key(key, roles_of_owners(keys=[key]))
