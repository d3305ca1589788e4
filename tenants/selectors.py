"""Reads about organisations and keys."""

from collections.abc import Collection
from time import monotonic
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts.models import User
from common.errors import not_found
from common.ids import from_wire
from tenants import known_keys
from tenants.keys import matches, split_token
from tenants.known_keys import FoundKey, RememberedKey
from tenants.models import ApiKey, Membership, Organization, Project, Role


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


def find_project(*, organization: Organization, wire_id: str) -> Project | None:
    """The project of an organisation with this id, archived or not."""
    project_id = from_wire(Project.ID_PREFIX, wire_id)
    # The tenant is decided; no scope is open yet at the edge.
    projects = Project.all_tenants.filter(organization_id=organization.id)
    return projects.filter(id=project_id).first() if project_id else None


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
