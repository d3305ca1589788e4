"""The cast: Alice owns an organisation, Bob is a member of it, Charlie is a stranger with one of his own."""

from dataclasses import dataclass
from typing import Any

from django.test import Client

from accounts.services import get_or_create_user
from billing.services import open_organization
from common.money import NANOS_PER_USD
from tenants.models import Membership, Organization, Project, Role
from tenants.scope import tenant_scope

MODEL = "little"


class ApiClient:
    """Django's test client with a bearer key; answers are :class:`django.http.HttpResponse`."""

    def __init__(self, token: str) -> None:
        self._client = Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})

    def get(self, path: str, **options: Any) -> Any:
        """GET."""
        return self._client.get(path, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> Any:
        """POST of JSON."""
        return self._client.post(path, data, content_type="application/json", **options)

    def delete(self, path: str, **options: Any) -> Any:
        """DELETE."""
        return self._client.delete(path, **options)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Any method."""
        return self._client.generic(method, path, **options)

    def upload(self, content: bytes, *, filename: str = "rows.jsonl", **fields: str) -> Any:
        """POST /v1/files with a multipart body, as the SDK sends it."""
        boundary = "boundary-of-the-tests"
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in {"purpose": "batch", **fields}.items()
        ]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        body = b"".join(parts) + head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        return self._client.generic("POST", "/v1/files", body, content_type=f"multipart/form-data; boundary={boundary}")


@dataclass(frozen=True)
class Member:
    """Somebody with an organisation, a project and both kinds of keys."""

    organization: Organization
    project: Project
    token: str
    admin_token: str

    @property
    def client(self) -> ApiClient:
        """Calls with the project key."""
        return ApiClient(self.token)

    @property
    def admin(self) -> ApiClient:
        """Calls with the admin key."""
        return ApiClient(self.admin_token)


@dataclass(frozen=True)
class Cast:
    """Who acts in a test."""

    alice: Member
    charlie: Member


def make_member(name: str, *, credit_nanos: int = 100 * NANOS_PER_USD) -> Member:
    """An organisation with its owner, and money for whatever a test does."""
    made = open_organization(
        name=f"{name}'s company", owner_email=f"{name.lower()}@example.com", credit_nanos=credit_nanos
    )
    return Member(made.organization, made.project, made.api_key.token, made.admin_key.token)


def make_cast() -> Cast:
    """Alice with Bob as a developer in her organisation, and Charlie."""
    alice, charlie = make_member("Alice"), make_member("Charlie")
    bob = get_or_create_user(email="bob@example.com")
    with tenant_scope(alice.organization.id):
        Membership.objects.create(organization=alice.organization, user=bob, role=Role.DEVELOPER)
    return Cast(alice, charlie)
