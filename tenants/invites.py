"""Writes about invitations.

The token that a mail carries is derived from the installation's pepper and the invitation's id, and stored nowhere: a
dump of the database opens no organisation, and whichever process sends the mail (:mod:`accounts.services`) can make it.
"""

import hmac
import re
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from accounts.emails import Letter
from accounts.models import User
from accounts.services import queue_email_about
from common.errors import HoneError
from common.ids import from_wire, to_wire
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.members import check_grant, lock_members
from tenants.models import Invite, Membership, Organization, Project, ProjectMembership, ProjectRole, Role
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.selectors import get_invite
from tenants.services import record

TOKEN_PREFIX = "hone_iv_"  # noqa: S105  # what every token begins with
VALID_FOR = timedelta(days=7)

_MAIL = """You have been invited to join {organization} on Hone as {role}.

Sign in, or sign up, with this address and accept the invitation with this token:

{token}

It is valid until {expires_at:%Y-%m-%d %H:%M} UTC. If you did not expect it, ignore this mail.
"""


@dataclass(frozen=True, kw_only=True)
class NewInvite:
    """Whom to invite, as what, and to which projects (wire id -> role)."""

    email: str
    role: Role
    projects: dict[str, ProjectRole]


def create_invite(
    *, organization_id: UUID, new: NewInvite, held: frozenset[str], actor: str, request: CreateRequest
) -> Invite:
    """Invite an address; the mail is queued with it.

    ``conflict`` while another invitation of the address is pending, or when its owner is a member already.
    """
    email = _address(new.email)
    with tenant_scope(organization_id):
        made = earlier(request, Invite)
        if made is not None:
            return made
        check_grant(role=new.role, held=held)
        for wire_id in sorted(new.projects):
            lock_active_project(wire_id=wire_id, param="projects")
        if Membership.objects.filter(user__email=email).exists():
            raise HoneError("conflict", f"{email} is a member already", param="email")
        Invite.objects.filter(email=email, accepted_at=None, expires_at__lte=Now()).delete()
        try:
            with transaction.atomic():
                invite = Invite.objects.create(
                    organization_id=organization_id,
                    email=email,
                    role=new.role,
                    projects=[{"id": wire_id, "role": role} for wire_id, role in new.projects.items()],
                    created_at=request.received_at,
                    expires_at=request.received_at + VALID_FOR,
                )
        except IntegrityError as error:  # invite_pending_once
            raise HoneError("conflict", f"An invitation of {email} is pending", param="email") from error
        queue_email_about(to=email, about=invite.wire_id)
        _record(invite, "sent", actor, {"email": email, "role": new.role.value})
        remember(request, invite)
    return invite


def delete_invite(*, organization_id: UUID, wire_id: str, actor: str) -> None:
    """Take an invitation back; ``conflict`` when it has been accepted, ``not_found`` when it is gone."""
    with tenant_scope(organization_id):
        invite = get_invite(wire_id=wire_id, lock=True)
        if invite.accepted_at is not None:
            raise HoneError("conflict", "The invitation has been accepted; remove the member", param="invite_id")
        _record(invite, "deleted", actor, {"email": invite.email})
        invite.delete()


def accept_invite(*, token: str, user: User) -> Membership:
    """Make ``user``, whose address has been verified, a member; accepting again is harmless.

    ``not_found`` for a token that is wrong, taken back, or for another address; ``conflict`` when it has expired, or
    its user has been removed since. Who is a member already keeps the role, and gets the projects.
    """
    invite_id = _read_token(token)
    # The token alone says which organisation it belongs to: the lookup must cross tenants.
    found = Invite.all_tenants.filter(id=invite_id, email=user.email).first() if invite_id else None
    if found is None:
        raise _unknown()
    with tenant_scope(found.organization_id):
        if lock_members(found.organization_id).status != Organization.Status.ACTIVE:
            raise HoneError("organization_inactive", "The organisation is suspended; contact the operator")
        expired = ExpressionWrapper(Q(expires_at__lte=Now()), output_field=BooleanField())
        invite = Invite.objects.select_for_update().annotate(is_expired=expired).filter(id=found.id).first()
        if invite is None:
            raise _unknown()
        member = Membership.objects.filter(user_id=user.id).first()
        if invite.accepted_at is not None:
            if member is None:
                raise HoneError("conflict", "The invitation has been used before; ask for another", param="token")
            return member
        if invite.is_expired:
            raise HoneError("conflict", "The invitation has expired; ask for another", param="token")
        if member is None:
            member = Membership.objects.create(
                organization_id=found.organization_id, user_id=user.id, role=invite.role
            )  # fmt: skip
            _record_user(invite, user, "user.added", {"role": invite.role})
        _join_projects(invite, member)
        Invite.objects.filter(id=invite.id).update(accepted_at=Now())
        _record(invite, "accepted", to_wire(User.ID_PREFIX, user.id))
    return member


def invite_token(*, invite_id: UUID) -> str:
    """``hone_iv_``, the invitation's id and 256 bits that only this installation can make."""
    # The label keeps these digests apart from those of API keys, which have the same pepper.
    proof = hmac.digest(settings.KEY_PEPPER, b"invite:" + invite_id.bytes, sha256).hex()
    return f"{TOKEN_PREFIX}{invite_id.hex}_{proof}"


def write_invite(wire_id: str) -> Letter | None:
    """The letter that invites somebody; None when the invitation has been accepted or taken back, or has expired."""
    invite_id = from_wire(Invite.ID_PREFIX, wire_id)
    # Mail goes out for whoever has invited somebody: hence the system role.
    valid = Invite.all_tenants.filter(accepted_at=None, expires_at__gt=Now()).select_related("organization")
    invite = valid.filter(id=invite_id).first() if invite_id else None
    if invite is None:
        return None
    return Letter(
        subject=f"Join {invite.organization.name} on Hone",
        body=_MAIL.format(
            organization=invite.organization.name,
            role=invite.role,
            token=invite_token(invite_id=invite.id),
            expires_at=invite.expires_at,
        ),
    )


def _address(text: str) -> str:
    address = text.strip().lower()
    try:
        User._meta.get_field("email").clean(address, None)
    except ValidationError as error:
        raise HoneError("invalid_value", f"Not an e-mail address: {address!r}", param="email") from error
    return address


def _read_token(token: str) -> UUID | None:
    match = re.fullmatch(TOKEN_PREFIX + r"([0-9a-f]{32})_[0-9a-f]{64}", token)
    if match is None:
        return None
    invite_id = UUID(hex=match[1])
    return invite_id if hmac.compare_digest(invite_token(invite_id=invite_id), token) else None


def _unknown() -> HoneError:
    return HoneError("not_found", "No such invitation of your address", param="token")


def _join_projects(invite: Invite, member: Membership) -> None:
    """Projects that have been archived since are left out."""
    for granted in invite.projects:
        project_id = from_wire(Project.ID_PREFIX, granted["id"])
        locked = Project.objects.select_for_update(no_key=True).filter(status=Project.Status.ACTIVE)
        if project_id is not None and locked.filter(id=project_id).first() is not None:
            ProjectMembership.objects.get_or_create(
                organization_id=invite.organization_id,
                project_id=project_id,
                membership_id=member.id,
                defaults={"role": granted["role"]},
            )


def _record_user(invite: Invite, user: User, action: str, details: dict[str, str]) -> None:
    wire_id = to_wire(User.ID_PREFIX, user.id)
    record(
        actor=wire_id, action=action, subject=wire_id, organization_id=invite.organization_id, details=details
    )  # fmt: skip


def _record(invite: Invite, what: str, actor: str, details: dict[str, str] | None = None) -> None:
    record(
        actor=actor,
        action=f"invite.{what}",
        subject=invite.wire_id,
        organization_id=invite.organization_id,
        details=details,
    )
