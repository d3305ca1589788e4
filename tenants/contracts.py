"""The administration of organisations in the published schema; of projects in :mod:`tenants.project_contracts`."""

from rest_framework import serializers

from accounts.models import User
from common.contract import Contract, Query, limit_query, list_query, listing, next_listing, page_query, two_way_query
from common.http import StrictSerializer
from common.query import MAX_SECONDS
from common.shapes import (
    Shape,
    anything,
    array,
    boolean,
    constant,
    deleted,
    integer,
    moment,
    nullable,
    one_of,
    text,
    wire_id,
)
from tenants.audit import EVENT_TYPES
from tenants.models import ApiKey, AuditEvent, Invite, Organization, Project, ProjectRole, Role, ServiceAccount
from tenants.permissions import ADMIN_SCOPES, ALL_SCOPES
from tenants.wire import READER, CreateAdminKeySerializer, CreateInviteSerializer, UpdateUserSerializer


class AcceptInviteSerializer(StrictSerializer):
    """Body of ``POST /v1/invites/accept``."""

    token = serializers.CharField(max_length=200)


_USER_ID = wire_id(User.ID_PREFIX)
NOBODY = Shape(name="NoOwner", about="The operator's.", fields={"type": {"type": "null"}})
_ADMIN_KEY_FIELDS = {
    "id": wire_id(ApiKey.ID_PREFIX),
    "object": constant("organization.admin_api_key"),
    "name": text(most=200),
    "redacted_value": text("What of its value may be shown."),
    "created_at": moment(),
    "expires_at": nullable(moment()),
    "last_used_at": nullable(moment()),
    "owner": {
        "anyOf": [
            Shape(
                name="AdminKeyOwner",
                about="The person behind it.",
                fields={
                    "type": constant("user"),
                    "object": constant("organization.user"),
                    "id": _USER_ID,
                    "name": text(),
                    "created_at": moment(),
                    "role": nullable(one_of(Role.values)),
                },
            ),
            NOBODY,
        ]
    },
    "scopes": array(one_of(sorted(ADMIN_SCOPES)), "Hone's."),
}
ADMIN_KEY = Shape(name="AdminKey", about="A key of the administration.", fields=_ADMIN_KEY_FIELDS)
ISSUED_ADMIN_KEY = Shape(
    name="IssuedAdminKey",
    about="A key with its value, which no other answer shows.",
    fields={**_ADMIN_KEY_FIELDS, "value": text(pattern="^hone_ak_")},
)
USER = Shape(
    name="OrganizationUser",
    about="A member of the organisation.",
    fields={
        "id": _USER_ID,
        "object": constant("organization.user"),
        "name": text(),
        "email": text(),
        "role": one_of(Role.values),
        "added_at": moment(),
        "created": moment(),
        "user": Shape(
            name="OrganizationUserDetails",
            about="The person.",
            fields={"id": _USER_ID, "object": constant("user"), "name": text(), "email": text()},
        ),
    },
)
INVITE = Shape(
    name="Invite",
    about="An invitation by e-mail. `organization_role` is Hone's word for the role.",
    fields={
        "id": wire_id(Invite.ID_PREFIX),
        "object": constant("organization.invite"),
        "email": text(),
        "role": one_of([Role.OWNER, READER], "In OpenAI's two words."),
        "organization_role": one_of(Role.values),
        "status": one_of(["pending", "accepted", "expired"]),
        "projects": array(
            Shape(
                name="InviteProjectGrant",
                about="A project that it opens.",
                fields={"id": wire_id(Project.ID_PREFIX), "role": one_of(ProjectRole.values)},
            )
        ),
        "created_at": moment(),
        "expires_at": moment(),
        "accepted_at": nullable(moment()),
    },
)
MEMBERSHIP = Shape(
    name="JoinedOrganization",
    about="Where the person is a member now, and as what.",
    fields={
        "object": constant("organization.membership"),
        "organization_id": wire_id(Organization.ID_PREFIX),
        "role": one_of(Role.values),
        "created_at": moment(),
    },
)
ROLE = Shape(
    name="Role",
    about="What members may do.",
    fields={
        "id": text(pattern="^role-[a-z]+$"),
        "object": constant("role"),
        "name": one_of(Role.values),
        "description": nullable(text()),
        "permissions": array(one_of(sorted(ALL_SCOPES))),
        "predefined_role": constant(value=True),
        "resource_type": constant("api.organization"),
    },
)
_ACTOR_USER = Shape(
    name="AuditLogUser", about="A person.", fields={"id": _USER_ID, "email": nullable(text())}
)  # fmt: skip
_SESSION = Shape(
    name="AuditLogSessionActor",
    about="A person who was signed in.",
    fields={
        "type": constant("session"),
        "session": Shape(name="AuditLogSession", about="The session.", fields={"user": _ACTOR_USER}),
    },
)
_KEY = Shape(
    name="AuditLogKeyActor",
    about="A key.",
    fields={
        "type": constant("api_key"),
        "api_key": Shape(
            name="AuditLogKey",
            about="The key and, while it is there, whose it is.",
            fields={"id": wire_id(ApiKey.ID_PREFIX)},
            optional={
                "type": one_of(["user", "service_account"]),
                "user": _ACTOR_USER,
                "service_account": Shape(
                    name="AuditLogServiceAccount",
                    about="A service account.",
                    fields={"id": wire_id(ServiceAccount.ID_PREFIX)},
                ),
            },
        ),
    },
)
AUDIT_LOG = Shape(
    name="AuditLog",
    about="Who did what. The member that is called like `type` has the details. `action`, Hone's own name of what was "
    "done, and `request_id` are Hone's.",
    fields={
        "id": wire_id(AuditEvent.ID_PREFIX),
        "type": text(f"One of OpenAI's: {', '.join(sorted(set(EVENT_TYPES.values())))}; or the `action`."),
        "effective_at": moment(),
        "actor": {"anyOf": [_KEY, _SESSION, {"type": "null", "description": "The operator."}]},
        "action": text(),
        "request_id": nullable(text()),
    },
    optional={
        "project": Shape(
            name="AuditLogProject",
            about="Where.",
            fields={"id": wire_id(Project.ID_PREFIX), "name": nullable(text())},
        )
    },
    others=anything("What was done, of the member that is called like `type`."),
)

CREATE_ADMIN_KEY = Contract(
    summary="Create an admin key",
    description="This answer alone shows its value. It has no scope that the caller lacks.",
    body=CreateAdminKeySerializer,
    creates=True,
    answer=ISSUED_ADMIN_KEY,
    errors=("conflict",),
)
LIST_ADMIN_KEYS = Contract(
    summary="List admin keys", query=page_query(ApiKey.ID_PREFIX), answer=listing(ADMIN_KEY)
)  # fmt: skip
RETRIEVE_ADMIN_KEY = Contract(summary="Show an admin key", answer=ADMIN_KEY)
DELETE_ADMIN_KEY = Contract(
    summary="End an admin key",
    answer=deleted("organization.admin_api_key.deleted", ApiKey.ID_PREFIX, name="DeletedAdminKey"),
)
LIST_USERS = Contract(
    summary="List members",
    query=(*page_query(User.ID_PREFIX), list_query("emails", "Those with these addresses alone.")),
    answer=listing(USER),
)
RETRIEVE_USER = Contract(summary="Show a member", answer=USER)
UPDATE_USER = Contract(
    summary="Give a member another role",
    description="None that may do more than the caller. The last owner stays one.",
    body=UpdateUserSerializer,
    answer=USER,
    errors=("conflict",),
)
DELETE_USER = Contract(
    summary="Remove a member",
    description="The keys that the person owns end.",
    answer=deleted("organization.user.deleted", User.ID_PREFIX, name="DeletedOrganizationUser"),
    errors=("conflict",),
)
CREATE_INVITE = Contract(
    summary="Invite somebody",
    description="By an e-mail, which opens the organisation to its address for seven days.",
    body=CreateInviteSerializer,
    creates=True,
    answer=INVITE,
    errors=("conflict",),
)
LIST_INVITES = Contract(
    summary="List invitations", query=page_query(Invite.ID_PREFIX), answer=listing(INVITE)
)  # fmt: skip
RETRIEVE_INVITE = Contract(summary="Show an invitation", answer=INVITE)
DELETE_INVITE = Contract(
    summary="Take an invitation back",
    answer=deleted("organization.invite.deleted", Invite.ID_PREFIX, name="DeletedInvite"),
    errors=("conflict",),
)
ACCEPT_INVITE = Contract(
    summary="Join an organisation",
    description="By the token of the e-mail, with an account of the address that it was sent to.",
    body=AcceptInviteSerializer,
    answer=MEMBERSHIP,
    errors=("not_found", "conflict", "organization_inactive"),
)
LIST_ROLES = Contract(
    summary="List the roles that members can have",
    query=(
        limit_query(max_limit=1_000, default_limit=1_000),
        Query(name="after", schema=text(), about="The `next` of a page: the page after it."),
    ),
    answer=next_listing(ROLE),
)
_SECOND = integer(least=0, most=MAX_SECONDS)
LIST_AUDIT_LOGS = Contract(
    summary="List who did what",
    description="What OpenAI has a type for, unless a filter says otherwise.",
    query=(
        *two_way_query(wire_id(AuditEvent.ID_PREFIX)),
        Query(
            name="effective_at",
            schema={
                "type": "object",
                "properties": dict.fromkeys(("gt", "gte", "lt", "lte"), _SECOND),
                "additionalProperties": False,
            },
            about="Within these moments: `effective_at[gte]=1700000000`.",
        ),
        list_query("event_types", "Of these types, OpenAI's or Hone's own."),
        Query(name="include_all", schema=boolean(), about="Also what OpenAI has no type for. Hone's."),
        list_query("actor_ids", "By these keys or people alone."),
        list_query("actor_emails", "By people with these addresses, or their keys, alone."),
        list_query("project_ids", "In these projects alone."),
        list_query("resource_ids", "About these objects alone."),
    ),
    answer=listing(AUDIT_LOG),
)
