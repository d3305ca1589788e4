"""Reads about organisations, projects, members and keys.

Inside the scope, but for what the edge asks before there is one: those say that they cross tenants.

``lock`` keeps the row from changing until the scope ends.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS
from django.db.models import Exists, Model, OuterRef, Prefetch, Q, QuerySet
from django.db.models.functions import Now

from accounts.models import User
from common.errors import not_found
from common.ids import from_wire
from tenants import known_keys
from tenants.keys import matches, split_token
from tenants.known_keys import FoundKey, RememberedKey
from tenants.models import (
    ApiKey,
    Invite,
    Membership,
    Organization,
    Project,
    ProjectMembership,
    ProjectRole,
    Role,
    ServiceAccount,
)
from tenants.permissions import SEEING_ALL_PROJECTS

R = TypeVar("R", bound=Model)


@dataclass(frozen=True)
class SeenProject:
    """A project, archived or not, as a member of its organisation sees it."""

    project: Project
    role: ProjectRole | None
    """What the member is there; None for who sees it without belonging to it."""


def get_organization(*, wire_id: str) -> Organization:
    """The organisation that an operator names, whichever it is, or ``not_found``."""
    organization_id = from_wire(Organization.ID_PREFIX, wire_id)
    organization = Organization.all_tenants.filter(id=organization_id).first() if organization_id else None
    if organization is None:
        raise not_found("organisation", wire_id)
    return organization


def get_key(*, public_id: str) -> ApiKey:
    """The key that an operator names by the part of its token that may be shown, or ``not_found``."""
    # Operators know tokens, not whose they are.
    key = ApiKey.all_tenants.filter(public_id=public_id).first()
    if key is None:
        raise not_found("key", public_id)
    return key


def find_key(token: str) -> FoundKey | None:
    """The key of a bearer token, whatever its state, with organisation and project; None when there is none.

    From memory where that can be trusted (:mod:`tenants.key_cache`): up to a second old.
    """
    for kind in (ApiKey.Kind.PROJECT, ApiKey.Kind.ADMIN):
        parts = split_token(token, kind.token_prefix)
        if parts is None:
            continue
        public_id, secret = parts
        found = _look_up(public_id)
        if found is None or found.key.kind != kind or not matches(secret, found.key.digest):
            return None
        return found
    return None


def roles_of(*, user: User) -> dict[UUID, str]:
    """What a person is where: the role in each organisation, by its id."""
    # Who a person is belongs to no tenant; neither does the list of those that the person may enter.
    return dict(Membership.all_tenants.filter(user_id=user.id).values_list("organization_id", "role"))


def existing_organizations(*, ids: Collection[UUID]) -> QuerySet[Organization]:
    """Those of these organisations that have not been deleted."""
    # For a member of all of them, as above.
    return Organization.all_tenants.filter(id__in=ids).exclude(status=Organization.Status.DELETED)


def owned_organizations(*, user: User) -> int:
    """How many organisations a person owns, deleted ones apart."""
    # Across tenants, as above.
    owned = Membership.all_tenants.filter(user_id=user.id, role=Role.OWNER)
    return owned.exclude(organization__status=Organization.Status.DELETED).count()


def find_membership(*, user: User, organization_wire_id: str) -> Membership | None:
    """A person's membership of the organisation with this id, as it is now."""
    organization_id = from_wire(Organization.ID_PREFIX, organization_wire_id)
    # Which tenant the request is of is known only with the membership.
    memberships = Membership.all_tenants.select_related("organization")
    return memberships.filter(user_id=user.id, organization_id=organization_id).first() if organization_id else None


def find_project(*, membership: Membership, wire_id: str) -> SeenProject | None:
    """The project with this id; None when there is none in the member's organisation, or the member may not see it."""
    project_id = from_wire(Project.ID_PREFIX, wire_id)
    if project_id is None:
        return None
    # The tenant is decided; no scope is open yet at the edge.
    project = Project.all_tenants.filter(organization_id=membership.organization_id, id=project_id).first()
    part = ProjectMembership.all_tenants.filter(membership_id=membership.id, project_id=project_id).first()
    if project is None or (part is None and membership.role not in SEEING_ALL_PROJECTS):
        return None
    return SeenProject(project, ProjectRole(part.role) if part else None)


def projects_seen(*, caller: ApiKey | Membership) -> QuerySet[Project]:
    """The projects that a key or a member may see, archived or not."""
    if isinstance(caller, ApiKey) or caller.role in SEEING_ALL_PROJECTS:
        return Project.objects.all()
    part = ProjectMembership.objects.filter(membership_id=caller.id, project_id=OuterRef("id"))
    return Project.objects.filter(Exists(part))


def get_project(*, wire_id: str, lock: bool = False, param: str = "project_id") -> Project:
    """One project, archived or not, or ``not_found``."""
    return _one(Project.objects.all(), "project", Project.ID_PREFIX, wire_id, lock=lock, param=param)


def members(*, emails: Sequence[str] = ()) -> QuerySet[Membership]:
    """Members with their users; those with these addresses, where any are named."""
    found = Membership.objects.select_related("user")
    return found.filter(user__email__in=[email.lower() for email in emails]) if emails else found


def get_member(*, wire_id: str, param: str = "user_id") -> Membership:
    """The membership of a user, with the user, or ``not_found``."""
    return _one(members(), "user", User.ID_PREFIX, wire_id, param=param, key="user_id")


def get_member_by_email(*, email: str) -> Membership:
    """The membership of an address, with the user, or ``not_found``."""
    member = members(emails=[email]).first() if "\0" not in email else None
    if member is None:
        raise not_found("user", email, param="email")
    return member


def project_members(*, project_id: UUID) -> QuerySet[ProjectMembership]:
    """Who takes part in a project, with the users."""
    return ProjectMembership.objects.filter(project_id=project_id).select_related("membership__user")


def get_project_member(*, project_id: UUID, user_wire_id: str, lock: bool = False) -> ProjectMembership:
    """One of them, or ``not_found``."""
    found = project_members(project_id=project_id)
    return _one(found, "user", User.ID_PREFIX, user_wire_id, lock=lock, param="user_id", key="membership__user_id")


def live_service_accounts(*, project: Project) -> QuerySet[ServiceAccount]:
    """Service accounts of a project."""
    return ServiceAccount.objects.filter(project_id=project.id, deleted_at=None)


def get_service_account(*, project: Project, wire_id: str, lock: bool = False) -> ServiceAccount:
    """One of them, or ``not_found``."""
    found = live_service_accounts(project=project)
    prefix = ServiceAccount.ID_PREFIX
    return _one(found, "service account", prefix, wire_id, lock=lock, param="service_account_id")


def owners() -> Any:
    """Of keys, the people who own them, as the tenant may see them: whoever has left is behind the wall."""
    return Prefetch("created_by", queryset=User.objects.using(DEFAULT_DB_ALIAS))


def live_admin_keys() -> QuerySet[ApiKey]:
    """Admin keys that nobody has ended, expired ones included, with their owners."""
    return _live_keys().filter(kind=ApiKey.Kind.ADMIN)


def live_project_keys(*, project: Project, has_access: bool | None = None) -> QuerySet[ApiKey]:
    """The same of a project; those whose owner still belongs to the organisation, or those whose owner does not."""
    keys = _live_keys().filter(project_id=project.id)
    if has_access is None:
        return keys
    is_here = Q(created_by=None) | Exists(Membership.objects.filter(user_id=OuterRef("created_by_id")))
    return keys.filter(is_here if has_access else ~is_here)


def get_key_of(keys: QuerySet[ApiKey], *, wire_id: str, lock: bool = False) -> ApiKey:
    """One of these keys, or ``not_found``."""
    return _one(keys, "API key", ApiKey.ID_PREFIX, wire_id, lock=lock, param="api_key_id")


def roles_of_owners(*, keys: Sequence[ApiKey]) -> dict[UUID, str]:
    """By user id the roles that the owners of these keys, all of one project or of none, have there."""
    owners = {key.created_by_id for key in keys if key.created_by_id}
    roles = dict(Membership.objects.filter(user_id__in=owners).values_list("user_id", "role"))
    projects = {key.project_id for key in keys if key.project_id}
    in_project = ProjectMembership.objects.filter(project_id__in=projects, membership__user_id__in=owners)
    return roles | dict(in_project.values_list("membership__user_id", "role"))


def get_invite(*, wire_id: str, lock: bool = False) -> Invite:
    """One invitation, or ``not_found``."""
    return _one(Invite.objects.all(), "invite", Invite.ID_PREFIX, wire_id, lock=lock, param="invite_id")


def _look_up(public_id: str) -> FoundKey | None:
    link = known_keys.link()
    if link is None:
        read = _read(public_id)
        return read.recall() if read else None
    known = link.cache.get(public_id)
    if known is None:
        ticket = link.cache.ticket()
        known = _read(public_id)
        if known is None:
            return None
        link.cache.put(public_id, known, organization_id=str(known.key.organization_id), ticket=ticket)
    return known.recall()


def _read(public_id: str) -> RememberedKey | None:
    asked_at = monotonic()
    # A token says which organisation it belongs to only once it is found: the lookup must cross tenants.
    keys = ApiKey.all_tenants.select_related("organization", "project").annotate(read_at=Now())
    key = keys.filter(public_id=public_id).first()
    return RememberedKey(key, key.read_at, asked_at) if key is not None else None


def _live_keys() -> QuerySet[ApiKey]:
    # Not joined: who has left the organisation is behind the wall, which is no reason to lose the key. What members do
    # while they are signed in is booked under keys that open nothing: those are no one's concern.
    keys = ApiKey.objects.filter(revoked_at=None).exclude(kind=ApiKey.Kind.SESSION)
    return keys.prefetch_related(owners(), "service_account")


def _one(
    rows: QuerySet[R], thing: str, prefix: str, wire_id: str, *, param: str, lock: bool = False, key: str = "pk"
) -> R:
    value = from_wire(prefix, wire_id)
    if lock:
        rows = rows.select_for_update(no_key=True, of=("self",))
    row = rows.filter(**{key: value}).first() if value else None
    if row is None:
        raise not_found(thing, wire_id, param=param)
    return row
