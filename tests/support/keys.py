"""What may happen to a key, and how it is refused from then on."""

from collections.abc import Callable
from typing import Any

from django.db.models.functions import Now

from tenants.models import ApiKey, Organization, Project
from tenants.scope import tenant_scope
from tenants.services import revoke_key, set_allowed_ips, set_organization_status
from tests.support.cast import ApiClient, Member
from tests.support.facts import change


def key_of(member: Member) -> ApiKey:
    """The project key of a member, as it stands in the table."""
    return ApiKey.all_tenants.get(public_id=member.token.split("_")[2])


def update_key(member: Member, **changes: Any) -> None:
    """Write columns of the member's project key."""
    with tenant_scope(member.organization.id):
        ApiKey.objects.filter(id=key_of(member).id).update(**changes)


def archive_project(member: Member) -> None:
    """The member's only project."""
    with tenant_scope(member.organization.id):
        Project.objects.update(status=Project.Status.ARCHIVED)


def refusal(client: ApiClient) -> str | None:
    """The code with which a call is refused, or None when it is answered."""
    answer = client.get("/v1/models")
    return None if answer.status_code == 200 else str(answer.json()["error"]["code"])


def _suspend(member: Member) -> None:
    set_organization_status(organization=member.organization, status=Organization.Status.SUSPENDED, actor="system")


CHANGES: dict[str, tuple[Callable[[Member], Any], int, str]] = {
    "revoked": (lambda member: revoke_key(key=key_of(member), actor="system"), 401, "invalid_api_key"),
    "suspended": (_suspend, 403, "organization_inactive"),
    "archived": (archive_project, 403, "organization_inactive"),
    "narrowed": (lambda member: update_key(member, scopes=["files.read"]), 403, "insufficient_scope"),
    "expired": (lambda member: update_key(member, expires_at=Now()), 401, "invalid_api_key"),
    "bound": (
        lambda member: set_allowed_ips(key=key_of(member), allowed_ips=["203.0.113.7"], actor="system"),
        403,
        "ip_not_allowed",
    ),
    "by hand": (
        lambda member: change("UPDATE tenants_apikey SET revoked_at = now() WHERE id = %s", key_of(member).id),
        401,
        "invalid_api_key",
    ),
    "gone": (
        lambda member: change("DELETE FROM tenants_apikey WHERE id = %s", key_of(member).id),
        401,
        "invalid_api_key",
    ),
}
"""By name: the change, and the status and code of the refusal."""
