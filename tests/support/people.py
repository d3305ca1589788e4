"""People of an organisation, as a test makes and finds them."""

from accounts.models import User
from accounts.services import get_or_create_user
from common.ids import to_wire
from tenants.models import Membership, Role
from tenants.scope import tenant_scope
from tests.support.cast import Member


def join(member: Member, email: str, role: Role) -> str:
    """Make somebody a member of the organisation; the wire id of the user."""
    user = get_or_create_user(email=email)
    with tenant_scope(member.organization.id):
        Membership.objects.create(organization=member.organization, user=user, role=role)
    return to_wire(User.ID_PREFIX, user.id)


def roles(member: Member) -> dict[str, str]:
    """The organisation's members: address -> role."""
    users = member.admin.get("/v1/organization/users?limit=100").json()["data"]
    return {user["email"]: user["role"] for user in users}


def user_id(member: Member, email: str) -> str:
    """The wire id of a member."""
    (user,) = member.admin.get("/v1/organization/users", data={"emails[]": email}).json()["data"]
    return str(user["id"])
