"""Reads about organisations and keys."""

from common.errors import not_found
from common.ids import from_wire
from tenants.keys import matches, split_token
from tenants.models import ApiKey, Organization


def get_organization(*, wire_id: str) -> Organization:
    """The organisation that an operator names, whichever it is, or ``not_found``."""
    organization_id = from_wire(Organization.ID_PREFIX, wire_id)
    organization = Organization.all_tenants.filter(id=organization_id).first() if organization_id else None
    if organization is None:
        raise not_found("organisation", wire_id)
    return organization


def find_key(token: str) -> ApiKey | None:
    """The key of a bearer token, whatever its state, with organisation and project; None when there is none."""
    for kind in ApiKey.Kind:
        parts = split_token(token, kind.token_prefix)
        if parts is None:
            continue
        public_id, secret = parts
        # A token says which organisation it belongs to only once it is found: the lookup must cross tenants.
        keys = ApiKey.all_tenants.select_related("organization", "project")
        key = keys.filter(public_id=public_id, kind=kind).first()
        return key if key is not None and matches(secret, key.digest) else None
    return None
