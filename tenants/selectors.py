"""Reads about organisations and keys."""

from tenants.keys import ADMIN_PREFIX, PROJECT_PREFIX, matches, split_token
from tenants.models import ApiKey


def find_key(token: str) -> ApiKey | None:
    """The key of a bearer token, whatever its state, with organisation and project; None when there is none."""
    for prefix in (PROJECT_PREFIX, ADMIN_PREFIX):
        parts = split_token(token, prefix)
        if parts is None:
            continue
        public_id, secret = parts
        # A token says which organisation it belongs to only once it is found: the lookup must cross tenants.
        key = ApiKey.all_tenants.select_related("organization", "project").filter(public_id=public_id).first()
        if key is not None and matches(secret, key.digest) and token.startswith(_PREFIXES[ApiKey.Kind(key.kind)]):
            return key
    return None


_PREFIXES = {ApiKey.Kind.PROJECT: PROJECT_PREFIX, ApiKey.Kind.ADMIN: ADMIN_PREFIX}
