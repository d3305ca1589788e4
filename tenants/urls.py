"""Routes below ``/v1``."""

from django.urls import path

from tenants.api import (
    AdminKeyListView,
    AdminKeyView,
    AuditLogListView,
    InviteListView,
    InviteView,
    RoleListView,
    UserListView,
    UserView,
)
from tenants.projects_api import (
    AccountKeyListView,
    ProjectArchiveView,
    ProjectKeyListView,
    ProjectKeyView,
    ProjectListView,
    ProjectUserListView,
    ProjectUserView,
    ProjectView,
    ServiceAccountListView,
    ServiceAccountView,
)

_PROJECT = "organization/projects/<str:project_id>"
_ACCOUNT = f"{_PROJECT}/service_accounts/<str:service_account_id>"

urlpatterns = [
    path("organization/admin_api_keys", AdminKeyListView.as_view()),
    path("organization/admin_api_keys/<str:key_id>", AdminKeyView.as_view()),
    path("organization/users", UserListView.as_view()),
    path("organization/users/<str:user_id>", UserView.as_view()),
    path("organization/invites", InviteListView.as_view()),
    path("organization/invites/<str:invite_id>", InviteView.as_view()),
    path("organization/roles", RoleListView.as_view()),
    path("organization/audit_logs", AuditLogListView.as_view()),
    path("organization/projects", ProjectListView.as_view()),
    path(_PROJECT, ProjectView.as_view()),
    path(f"{_PROJECT}/archive", ProjectArchiveView.as_view()),
    path(f"{_PROJECT}/users", ProjectUserListView.as_view()),
    path(f"{_PROJECT}/users/<str:user_id>", ProjectUserView.as_view()),
    path(f"{_PROJECT}/service_accounts", ServiceAccountListView.as_view()),
    path(_ACCOUNT, ServiceAccountView.as_view()),
    path(f"{_ACCOUNT}/api_keys", AccountKeyListView.as_view()),
    path(f"{_PROJECT}/api_keys", ProjectKeyListView.as_view()),
    path(f"{_PROJECT}/api_keys/<str:api_key_id>", ProjectKeyView.as_view()),
]
