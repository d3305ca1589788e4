"""The edge: who calls, and whether the call is allowed. Resolved once, then carried as an object."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import User
from accounts.selectors import find_person
from common.addresses import address_of
from common.contract import Contract
from common.errors import HoneError, not_found
from common.http import AnyLengthRequest
from common.ids import to_wire
from tenants.idempotency import CreateRequest, read_create_request
from tenants.models import ApiKey, Membership, Organization, Project, ProjectRole, Role
from tenants.networks import is_within
from tenants.permissions import OPERATIONS, PROJECT_ROLE_SCOPES, ROLE_SCOPES
from tenants.selectors import SeenProject, find_key, find_membership, find_project
from tenants.services import note_key_use, session_key

SESSION_HEADER = "X-Session-Token"

WARN_BEFORE_EXPIRY = timedelta(days=7)


@dataclass(frozen=True)
class Principal:
    """The caller of a request, a live key or a signed-in member; its organisation; its project, where there is one."""

    caller: ApiKey | Membership
    organization: Organization
    project: Project | None
    expiring_at: datetime | None = None
    """When the key expires, where that is within :data:`WARN_BEFORE_EXPIRY`."""
    project_role: ProjectRole | None = None
    """What a member is in the project; None for a key, and for who works there without belonging to it."""

    @property
    def organization_id(self) -> UUID:
        """The tenant of the request."""
        return self.organization.id

    @property
    def actor(self) -> str:
        """How audit rows name the caller."""
        if isinstance(self.caller, ApiKey):
            return self.caller.wire_id
        return to_wire(User.ID_PREFIX, self.caller.user_id)

    @property
    def scopes(self) -> frozenset[str]:
        """What the caller may do, now."""
        if isinstance(self.caller, ApiKey):
            return frozenset(self.caller.scopes)
        in_project = PROJECT_ROLE_SCOPES[self.project_role] if self.project_role else frozenset()
        return ROLE_SCOPES[Role(self.caller.role)] | in_project

    @cached_property
    def key(self) -> ApiKey:
        """What the caller's work is booked under: the key that was sent, or the member's, made when first needed."""
        if isinstance(self.caller, ApiKey):
            return self.caller
        return session_key(membership=self.caller, project=self.project)

    @property
    def user_id(self) -> UUID | None:
        """The person behind the call, who owns what it makes."""
        return self.caller.created_by_id if isinstance(self.caller, ApiKey) else self.caller.user_id


def bearer_token(request: Request) -> str:
    """The token of the Authorization header, or an error that says what to send."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise HoneError("invalid_api_key", "Send your key in the header 'Authorization: Bearer <key>'")
    return token.strip()


def authenticate(request: Request) -> Principal:
    """The principal of a request; neither key nor session token ever appears in an error."""
    if SESSION_HEADER not in request.headers:
        return _authenticate_key(request)
    if "Authorization" in request.headers:
        raise HoneError("invalid_request", f"Send a key or {SESSION_HEADER}, not both")
    return _authenticate_member(request)


def authenticate_person(request: Request) -> User:
    """Who is signed in with the session token of the request."""
    person = find_person(token=request.headers.get(SESSION_HEADER, ""))
    if person is None:
        raise HoneError("invalid_session", f"Sign in, and send the session token in the header '{SESSION_HEADER}'")
    return person


def authorize(principal: Principal, operation: str) -> None:
    """Raise unless the caller holds the operation's scope, and a key is of its kind."""
    permission = OPERATIONS[operation]
    if isinstance(principal.caller, ApiKey):
        if permission.key_kind is not None and principal.caller.kind != permission.key_kind:
            raise HoneError("wrong_key_type", f"This route takes a key of kind '{permission.key_kind}'")
        holder = "key"
    else:
        if permission.key_kind == ApiKey.Kind.PROJECT and principal.project is None:
            raise _missing_header("OpenAI-Project", "which of the organisation's projects it is about")
        holder = f"role '{principal.caller.role}'"
    if permission.scope is not None and permission.scope not in principal.scopes:
        raise HoneError("insufficient_scope", f"The {holder} lacks the scope '{permission.scope}'")


def _authenticate_key(request: Request) -> Principal:
    found = find_key(bearer_token(request))
    if found is None:
        raise HoneError("invalid_api_key", "The key is not known; check that it was copied whole")
    key = found.key
    if key.revoked_at is not None:
        raise HoneError("invalid_api_key", "The key has been revoked; create another one")
    if key.expires_at is not None and key.expires_at <= found.now:
        raise HoneError("invalid_api_key", "The key has expired; create another one")
    if key.allowed_ips is not None:
        _check_address(request, key.allowed_ips)
    for header, expected in (
        ("OpenAI-Organization", key.organization.wire_id),
        ("OpenAI-Project", key.project.wire_id if key.project else None),
    ):
        sent = request.headers.get(header)
        if sent and sent != expected:
            raise HoneError("organization_mismatch", f"The header {header} does not agree with the key")
    is_expiring = key.expires_at is not None and key.expires_at - found.now <= WARN_BEFORE_EXPIRY
    principal = Principal(key, key.organization, key.project, expiring_at=key.expires_at if is_expiring else None)
    _check_active(principal)
    note_key_use(key=key)
    return principal


def _check_address(request: Request, allowed: list[str]) -> None:
    address = address_of(request._request)
    if address is None or not is_within(address, allowed):
        raise HoneError("ip_not_allowed", f"The key may not be used from {address or 'an unknown address'}")


def _authenticate_member(request: Request) -> Principal:
    person = authenticate_person(request)
    wanted = request.headers.get("OpenAI-Organization")
    if not wanted:
        raise _missing_header("OpenAI-Organization", "which of your organisations it is about")
    membership = find_membership(user=person, organization_wire_id=wanted)
    if membership is None:
        raise not_found("organisation", wanted, param="OpenAI-Organization")
    principal = Principal(membership, membership.organization, None)
    if project_id := request.headers.get("OpenAI-Project"):
        seen = _see_project(membership, project_id, param="OpenAI-Project")
        principal = replace(principal, project=seen.project, project_role=seen.role)
    _check_active(principal)
    return principal


def _see_project(membership: Membership, wire_id: str, *, param: str) -> SeenProject:
    seen = find_project(membership=membership, wire_id=wire_id)
    if seen is None:
        raise not_found("project", wire_id, param=param)
    return seen


def _check_active(principal: Principal) -> None:
    if principal.organization.status != Organization.Status.ACTIVE:
        raise HoneError("organization_inactive", "The organisation is suspended; contact the operator")
    if principal.project is not None and principal.project.status != Project.Status.ACTIVE:
        raise HoneError("organization_inactive", "The project is archived")


def _missing_header(name: str, meaning: str) -> HoneError:
    return HoneError(
        "missing_required_parameter", f"With {SESSION_HEADER}, the header {name} says {meaning}", param=name
    )


class HoneAPIView(APIView):
    """What all views share. ``operations`` maps each method to its row of the permission table (HEAD is GET)."""

    operations: ClassVar[dict[str, str]]
    contracts: ClassVar[dict[str, Contract]]
    """What each of these methods promises; views of the internal API promise nothing to customers."""
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]  # noqa: RUF012  # as DRF declares it

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """As DRF's, with a request that reads chunked bodies."""
        return AnyLengthRequest(
            request,
            parsers=self.get_parsers(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def operation(self, request: Request) -> str:
        """What the request wants to do, or ``method_not_allowed``."""
        operation = self.operations.get("GET" if request.method == "HEAD" else request.method or "")
        if operation is None:
            raise HoneError("method_not_allowed", f"This route does not take {request.method}")
        return operation


class PersonAPIView(HoneAPIView):
    """A view for whoever is signed in."""

    person: User

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Authenticate before the handler; the body has not been read yet."""
        super().initial(request, *args, **kwargs)
        self.person = authenticate_person(request)
        self.operation(request)


class TenantAPIView(HoneAPIView):
    """A view for holders of keys and for signed-in members."""

    principal: Principal

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Authenticate and authorise before the handler; the body has not been read yet."""
        super().initial(request, *args, **kwargs)
        self.principal = authenticate(request)
        request._request.organization_wire_id = self.principal.organization.wire_id  # type: ignore[attr-defined]
        if self.principal.expiring_at is not None:
            self.headers["hone-key-expires-at"] = str(int(self.principal.expiring_at.timestamp()))
        authorize(self.principal, self.operation(request))
        if isinstance(self.principal.caller, Membership) and "project_id" in kwargs:
            _see_project(self.principal.caller, str(kwargs["project_id"]), param="project_id")

    @property
    def project(self) -> Project:
        """The project of the caller; operations on project routes require a project key."""
        if self.principal.project is None:
            raise HoneError("wrong_key_type", "This route takes a key of kind 'project'")
        return self.principal.project

    def create_request(self, fields: object, *, digest: str = "", part: str = "") -> CreateRequest:
        """This request as a service that creates knows it again: by its parsed fields and its file's digest.

        ``part`` tells several creates of one request apart.
        """
        return read_create_request(
            api_key=self.principal.key,
            path=f"{self.request.path}#{part}" if part else self.request.path,
            headers=self.request.headers,
            fields=fields,
            digest=digest,
        )
