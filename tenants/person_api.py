"""``/v1/invites/accept``: for people, members of something or not."""

from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from common.http import parsed
from common.ids import to_wire
from tenants import contracts
from tenants.access import PersonAPIView
from tenants.contracts import AcceptInviteSerializer
from tenants.invites import accept_invite
from tenants.models import Membership, Organization


def render_joined(membership: Membership) -> dict[str, Any]:
    """The wire object: where the person is a member now, and as what."""
    return {
        "object": "organization.membership",
        "organization_id": to_wire(Organization.ID_PREFIX, membership.organization_id),
        "role": membership.role,
        "created_at": int(membership.created_at.timestamp()),
    }


class AcceptInviteView(PersonAPIView):
    """Join an organisation. Accepting again is harmless, so nothing is remembered of the request."""

    operations: ClassVar = {"POST": "invites.accept"}
    contracts: ClassVar = {"POST": contracts.ACCEPT_INVITE}

    def post(self, request: Request) -> Response:
        """The token of the mail, by whoever has verified the address that it was sent to."""
        token = parsed(AcceptInviteSerializer, request)["token"]
        return Response(render_joined(accept_invite(token=token, user=self.person)))
