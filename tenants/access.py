"""The edge: who calls, and whether the call is allowed. Resolved once, then carried as an object."""

from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.views import APIView

from common.errors import HoneError
from common.http import AnyLengthRequest
from tenants.idempotency import CreateRequest, read_create_request
from tenants.models import ApiKey, Organization, Project
from tenants.permissions import OPERATIONS
from tenants.selectors import find_key
from tenants.services import note_key_use


@dataclass(frozen=True)
class Principal:
    """The caller of a request: a live key, its organisation and, for a project key, its project."""

    key: ApiKey
    organization: Organization
    project: Project | None

    @property
    def organization_id(self) -> UUID:
        """The tenant of the request."""
        return self.organization.id

    @property
    def actor(self) -> str:
        """How audit rows name the caller."""
        return self.key.wire_id


def bearer_token(request: Request) -> str:
    """The token of the Authorization header, or an error that says what to send."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise HoneError("invalid_api_key", "Send your key in the header 'Authorization: Bearer <key>'")
    return token.strip()


def authenticate(request: Request) -> Principal:
    """The principal of a request; the key itself never appears in an error."""
    key = find_key(bearer_token(request))
    if key is None:
        raise HoneError("invalid_api_key", "The key is not known; check that it was copied whole")
    if key.revoked_at is not None:
        raise HoneError("invalid_api_key", "The key has been revoked; create another one")
    if key.expires_at is not None and key.expires_at <= timezone.now():
        raise HoneError("invalid_api_key", "The key has expired; create another one")
    for header, expected in (
        ("OpenAI-Organization", key.organization.wire_id),
        ("OpenAI-Project", key.project.wire_id if key.project else None),
    ):
        sent = request.headers.get(header)
        if sent and sent != expected:
            raise HoneError("organization_mismatch", f"The header {header} does not agree with the key")
    if key.organization.status != Organization.Status.ACTIVE:
        raise HoneError("organization_inactive", "The organisation is suspended; contact the operator")
    if key.project is not None and key.project.status != Project.Status.ACTIVE:
        raise HoneError("organization_inactive", "The project is archived")
    note_key_use(key=key)
    return Principal(key=key, organization=key.organization, project=key.project)


def authorize(principal: Principal, operation: str) -> None:
    """Raise unless the key is of the operation's kind and holds its scope."""
    permission = OPERATIONS[operation]
    if principal.key.kind != permission.key_kind:
        raise HoneError("wrong_key_type", f"This route takes a key of kind '{permission.key_kind}'")
    if permission.scope not in principal.key.scopes:
        raise HoneError("insufficient_scope", f"The key lacks the scope '{permission.scope}'")


class TenantAPIView(APIView):
    """A view for holders of keys. ``operations`` maps each method to its row of the permission table (HEAD is GET)."""

    operations: ClassVar[dict[str, str]]
    principal: Principal
    http_method_names = ["get", "post", "put", "patch", "delete", "head"]  # noqa: RUF012  # as DRF declares it

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """As DRF's, with a request that reads chunked bodies."""
        return AnyLengthRequest(
            request,
            parsers=self.get_parsers(),
            negotiator=self.get_content_negotiator(),
            parser_context=self.get_parser_context(request),
        )

    def initial(self, request: Request, *args: object, **kwargs: object) -> None:
        """Authenticate and authorise before the handler; the body has not been read yet."""
        super().initial(request, *args, **kwargs)
        self.principal = authenticate(request)
        request._request.organization_wire_id = self.principal.organization.wire_id  # type: ignore[attr-defined]
        method = "GET" if request.method == "HEAD" else request.method
        operation = self.operations.get(method or "")
        if operation is None:
            raise HoneError("method_not_allowed", f"This route does not take {request.method}")
        authorize(self.principal, operation)

    @property
    def project(self) -> Project:
        """The project of the key; operations on project routes require a project key."""
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
