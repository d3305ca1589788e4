"""Projects, who takes part in them, their service accounts and keys, in the published schema.

What is to change in a project that is archived is refused with ``conflict``.
"""

from accounts.models import User
from common.contract import Contract, Query, listing, page_query
from common.http import NoParametersSerializer
from common.shapes import Shape, array, boolean, constant, deleted, moment, nullable, one_of, text, wire_id
from tenants.contracts import NOBODY
from tenants.models import ApiKey, Project, ProjectRole, ServiceAccount
from tenants.permissions import PROJECT_SCOPES
from tenants.wire import (
    AddProjectUserSerializer,
    CreateAccountKeySerializer,
    CreateProjectKeySerializer,
    CreateServiceAccountSerializer,
    NameSerializer,
    ProjectRoleSerializer,
    UpdateProjectKeySerializer,
    UpdateServiceAccountSerializer,
)

OWNER_ACCESS = {"active": True, "inactive": False, "any": None}
"""Words of ``owner_project_access``: whether the owner of a key still belongs to the organisation."""

PROJECT = Shape(
    name="Project",
    about="A part of the organisation with files, batches and keys of its own.",
    fields={
        "id": wire_id(Project.ID_PREFIX),
        "object": constant("organization.project"),
        "name": text(most=200),
        "status": one_of(Project.Status.values),
        "created_at": moment(),
        "archived_at": nullable(moment()),
    },
)
PROJECT_USER = Shape(
    name="ProjectUser",
    about="Somebody who takes part in a project.",
    fields={
        "id": wire_id(User.ID_PREFIX),
        "object": constant("organization.project.user"),
        "name": text(),
        "email": text(),
        "role": one_of(ProjectRole.values),
        "added_at": moment(),
    },
)
_ACCOUNT_FIELDS = {
    "id": wire_id(ServiceAccount.ID_PREFIX),
    "object": constant("organization.project.service_account"),
    "name": text(most=200),
    "role": one_of(ServiceAccount.Role.values),
    "created_at": moment(),
}
SERVICE_ACCOUNT = Shape(
    name="ServiceAccount", about="An owner of keys that is no person.", fields=_ACCOUNT_FIELDS
)  # fmt: skip
ACCOUNT_KEY = Shape(
    name="IssuedServiceAccountKey",
    about="A key of a service account with its value, which no other answer shows.",
    fields={
        "id": wire_id(ApiKey.ID_PREFIX),
        "object": constant("organization.project.service_account.api_key"),
        "name": text(most=200),
        "created_at": moment(),
        "expires_at": nullable(moment()),
        "value": text(pattern="^hone_sk_"),
    },
)
NEW_SERVICE_ACCOUNT = Shape(
    name="NewServiceAccount",
    about="A service account with its first key.",
    fields={**_ACCOUNT_FIELDS, "api_key": nullable(ACCOUNT_KEY)},
)
_USER_OWNER = Shape(
    name="ProjectKeyUserOwner",
    about="A person's.",
    fields={
        "type": constant("user"),
        "user": Shape(
            name="ProjectKeyUser",
            about="The person behind it.",
            fields={
                "id": wire_id(User.ID_PREFIX),
                "name": text(),
                "email": text(),
                "created_at": moment(),
                "role": text("In the project, or else in the organisation; empty for who has left."),
            },
        ),
    },
)
_ACCOUNT_OWNER = Shape(
    name="ProjectKeyServiceAccountOwner",
    about="A service account's.",
    fields={
        "type": constant("service_account"),
        "service_account": Shape(
            name="ProjectKeyServiceAccount",
            about="The service account.",
            fields={name: _ACCOUNT_FIELDS[name] for name in ("id", "name", "created_at", "role")},
        ),
    },
)
_KEY_FIELDS = {
    "id": wire_id(ApiKey.ID_PREFIX),
    "object": constant("organization.project.api_key"),
    "name": text(most=200),
    "redacted_value": text("What of its value may be shown."),
    "created_at": moment(),
    "expires_at": nullable(moment()),
    "last_used_at": nullable(moment()),
    "owner": {"anyOf": [_USER_OWNER, _ACCOUNT_OWNER, NOBODY]},
    "owner_project_access": one_of(["active", "inactive"], "Whether its owner still belongs to the organisation."),
    "scopes": array(one_of(sorted(PROJECT_SCOPES)), "Hone's."),
    "allowed_models": nullable(array(text(), "null is all. Hone's.")),
}
PROJECT_KEY = Shape(name="ProjectKey", about="A key of a project.", fields=_KEY_FIELDS)
ISSUED_PROJECT_KEY = Shape(
    name="IssuedProjectKey",
    about="A key with its value, which no other answer shows.",
    fields={**_KEY_FIELDS, "value": text(pattern="^hone_sk_")},
)

CREATE_PROJECT = Contract(summary="Create a project", body=NameSerializer, creates=True, answer=PROJECT)
LIST_PROJECTS = Contract(
    summary="List projects",
    query=(
        *page_query(Project.ID_PREFIX),
        Query(name="include_archived", schema=boolean(), about="Archived ones, too."),
    ),
    answer=listing(PROJECT),
)
RETRIEVE_PROJECT = Contract(summary="Show a project", answer=PROJECT)
UPDATE_PROJECT = Contract(summary="Rename a project", body=NameSerializer, answer=PROJECT, errors=("conflict",))
ARCHIVE_PROJECT = Contract(
    summary="Archive a project",
    description="For ever: its keys open nothing any more.",
    body=NoParametersSerializer,
    answer=PROJECT,
)
ADD_PROJECT_USER = Contract(
    summary="Add a member of the organisation to a project",
    description="By `user_id` or `email`.",
    body=AddProjectUserSerializer,
    creates=True,
    answer=PROJECT_USER,
    errors=("conflict",),
)
LIST_PROJECT_USERS = Contract(
    summary="List who takes part in a project", query=page_query(User.ID_PREFIX), answer=listing(PROJECT_USER)
)  # fmt: skip
RETRIEVE_PROJECT_USER = Contract(summary="Show somebody who takes part in a project", answer=PROJECT_USER)
UPDATE_PROJECT_USER = Contract(
    summary="Give somebody another role in a project",
    body=ProjectRoleSerializer,
    answer=PROJECT_USER,
    errors=("conflict",),
)
DELETE_PROJECT_USER = Contract(
    summary="Remove somebody from a project",
    answer=deleted("organization.project.user.deleted", User.ID_PREFIX, name="DeletedProjectUser"),
    errors=("conflict",),
)
CREATE_SERVICE_ACCOUNT = Contract(
    summary="Create a service account",
    description="This answer alone shows the value of its first key.",
    body=CreateServiceAccountSerializer,
    creates=True,
    answer=NEW_SERVICE_ACCOUNT,
    errors=("conflict",),
)
LIST_SERVICE_ACCOUNTS = Contract(
    summary="List a project's service accounts",
    query=page_query(ServiceAccount.ID_PREFIX),
    answer=listing(SERVICE_ACCOUNT),
)
RETRIEVE_SERVICE_ACCOUNT = Contract(summary="Show a service account", answer=SERVICE_ACCOUNT)
UPDATE_SERVICE_ACCOUNT = Contract(
    summary="Change a service account",
    description="What is not named stays as it is.",
    body=UpdateServiceAccountSerializer,
    answer=SERVICE_ACCOUNT,
    errors=("conflict",),
)
DELETE_SERVICE_ACCOUNT = Contract(
    summary="End a service account and its keys",
    answer=deleted(
        "organization.project.service_account.deleted", ServiceAccount.ID_PREFIX, name="DeletedServiceAccount"
    ),
    errors=("conflict",),
)
CREATE_ACCOUNT_KEY = Contract(
    summary="Create a key of a service account",
    description="This answer alone shows its value.",
    body=CreateAccountKeySerializer,
    creates=True,
    answer=ACCOUNT_KEY,
    errors=("conflict",),
)
CREATE_PROJECT_KEY = Contract(
    summary="Create a key of a project",
    description="This answer alone shows its value. Hone's.",
    body=CreateProjectKeySerializer,
    creates=True,
    answer=ISSUED_PROJECT_KEY,
    errors=("conflict",),
)
LIST_PROJECT_KEYS = Contract(
    summary="List a project's keys",
    query=(
        *page_query(ApiKey.ID_PREFIX),
        Query(
            name="owner_project_access",
            schema=one_of(OWNER_ACCESS),
            about="Of owners who belong to the organisation, or do not; `any` unless it is given.",
        ),
    ),
    answer=listing(PROJECT_KEY),
)
RETRIEVE_PROJECT_KEY = Contract(summary="Show a key of a project", answer=PROJECT_KEY)
UPDATE_PROJECT_KEY = Contract(
    summary="Change a key of a project",
    description="What is not named stays as it is.",
    body=UpdateProjectKeySerializer,
    answer=PROJECT_KEY,
    errors=("conflict",),
)
DELETE_PROJECT_KEY = Contract(
    summary="End a key of a project",
    answer=deleted("organization.project.api_key.deleted", ApiKey.ID_PREFIX, name="DeletedProjectKey"),
    errors=("conflict",),
)
