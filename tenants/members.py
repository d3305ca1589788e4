"""Writes about members of an organisation and of its projects.

Whoever changes who belongs to an organisation, or as what, holds the organisation's row: so the last owner cannot be
lost to two changes at once, and creates that are under way (:func:`tenants.idempotency.earlier`) are waited for.
Nobody gives or takes a role that may do more than the caller.
"""

from uuid import UUID

from accounts.models import User
from common.errors import HoneError
from common.ids import to_wire
from tenants.idempotency import CreateRequest, earlier, remember
from tenants.models import ApiKey, Membership, Organization, ProjectMembership, ProjectRole, Role
from tenants.permissions import ADMIN_SCOPES, ROLE_SCOPES
from tenants.projects import lock_active_project
from tenants.scope import tenant_scope
from tenants.selectors import get_member, get_member_by_email, get_project_member
from tenants.services import record, revoke_key


def change_role(
    *, organization_id: UUID, user_wire_id: str, role: Role, held: frozenset[str], actor: str
) -> Membership:
    """Give a member another role; ``conflict`` for the last owner, ``insufficient_scope`` beyond the caller's."""
    with tenant_scope(organization_id):
        lock_members(organization_id)
        member = get_member(wire_id=user_wire_id)
        if role != member.role:
            check_grant(role=role, held=held)
            check_grant(role=Role(member.role), held=held)
            _keep_an_owner(member)
            member.role = role
            member.save(update_fields=["role"])
            _record(member, "user.updated", actor, {"role": role.value})
    return member


def remove_member(*, organization_id: UUID, user_wire_id: str, held: frozenset[str], actor: str) -> None:
    """Take a person out of the organisation and its projects, and end the keys the person owns.

    ``not_found`` when that is done, ``conflict`` for the last owner.
    """
    with tenant_scope(organization_id):
        lock_members(organization_id)
        member = get_member(wire_id=user_wire_id)
        check_grant(role=Role(member.role), held=held)
        _keep_an_owner(member)
        for key in ApiKey.objects.filter(created_by_id=member.user_id, revoked_at=None).order_by("id"):
            revoke_key(key=key, actor=actor)
        ProjectMembership.objects.filter(membership_id=member.id).delete()
        _record(member, "user.deleted", actor)
        member.delete()


def add_project_member(
    *,
    organization_id: UUID,
    project_wire_id: str,
    user_wire_id: str | None,
    email: str | None,
    role: ProjectRole,
    actor: str,
    request: CreateRequest,
) -> ProjectMembership:
    """Let a member of the organisation, named by id or address, take part in a project; ``conflict`` when one does."""
    with tenant_scope(organization_id):
        made = earlier(request, ProjectMembership)
        if made is not None:
            return get_project_member(project_id=made.project_id, user_wire_id=_wire_id(made.membership.user_id))
        project = lock_active_project(wire_id=project_wire_id)
        if user_wire_id is not None:
            member = get_member(wire_id=user_wire_id, param="user_id")
        else:
            member = get_member_by_email(email=email or "")
        _, is_new = ProjectMembership.objects.get_or_create(
            organization_id=organization_id, project_id=project.id, membership_id=member.id, defaults={"role": role}
        )
        added = get_project_member(project_id=project.id, user_wire_id=_wire_id(member.user_id))
        if not is_new:
            raise HoneError("conflict", f"{_wire_id(member.user_id)} is in the project; change the role instead")
        _record_in_project(added, "added", actor, {"role": role.value})
        remember(request, added)
    return added


def change_project_role(
    *, organization_id: UUID, project_wire_id: str, user_wire_id: str, role: ProjectRole, actor: str
) -> ProjectMembership:
    """Give somebody another role in a project."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        member = get_project_member(project_id=project.id, user_wire_id=user_wire_id, lock=True)
        if role != member.role:
            member.role = role
            member.save(update_fields=["role"])
            _record_in_project(member, "updated", actor, {"role": role.value})
    return member


def remove_project_member(*, organization_id: UUID, project_wire_id: str, user_wire_id: str, actor: str) -> None:
    """Take somebody out of a project, not out of the organisation; ``not_found`` when that is done."""
    with tenant_scope(organization_id):
        project = lock_active_project(wire_id=project_wire_id)
        member = get_project_member(project_id=project.id, user_wire_id=user_wire_id, lock=True)
        _record_in_project(member, "removed", actor)
        member.delete()


def lock_members(organization_id: UUID) -> Organization:
    """The organisation's row: who belongs to it changes under this lock alone."""
    return Organization.objects.select_for_update(no_key=True).get(id=organization_id)


def check_grant(*, role: Role, held: frozenset[str]) -> None:
    """``insufficient_scope`` when a role may administer what the caller, who holds ``held``, may not."""
    beyond = sorted((ROLE_SCOPES[role] & ADMIN_SCOPES) - held)
    if beyond:
        raise HoneError(
            "insufficient_scope", f"The key lacks the scope '{beyond[0]}', which the role '{role}' has", param="role"
        )


def _keep_an_owner(member: Membership) -> None:
    others = Membership.objects.filter(role=Role.OWNER).exclude(id=member.id)
    if member.role == Role.OWNER and not others.exists():
        raise HoneError("conflict", "This is the last owner; make somebody else an owner first", param="user_id")


def _wire_id(user_id: UUID) -> str:
    return to_wire(User.ID_PREFIX, user_id)


def _record(member: Membership, action: str, actor: str, details: dict[str, str] | None = None) -> None:
    record(
        actor=actor,
        action=action,
        subject=_wire_id(member.user_id),
        organization_id=member.organization_id,
        details=details,
    )


def _record_in_project(member: ProjectMembership, what: str, actor: str, details: dict[str, str] | None = None) -> None:
    record(
        actor=actor,
        action=f"project_user.{what}",
        subject=_wire_id(member.membership.user_id),
        organization_id=member.organization_id,
        project_id=member.project_id,
        details=details,
    )
