"""Bearer secrets: ``<prefix><public id>_<secret>``, of which only a keyed digest is ever stored."""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256

from django.conf import settings

PROJECT_PREFIX = "hone_sk_"
ADMIN_PREFIX = "hone_ak_"


@dataclass(frozen=True)
class NewSecret:
    """A fresh secret; ``token`` is shown once and never stored."""

    token: str
    public_id: str
    digest: bytes


def new_secret(prefix: str) -> NewSecret:
    """256 random bits behind a public id that finds the row."""
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    return NewSecret(token=f"{prefix}{public_id}_{secret}", public_id=public_id, digest=_digest(secret))


def split_token(token: str, prefix: str) -> tuple[str, str] | None:
    """``(public id, secret)`` of a token with this prefix, or None when it is not one."""
    if not token.isascii() or not token.startswith(prefix) or len(token) > 200:
        return None
    public_id, _, secret = token.removeprefix(prefix).partition("_")
    return (public_id, secret) if public_id and secret else None


def matches(secret: str, digest: bytes | memoryview) -> bool:
    """Whether the stored digest is this secret's, in constant time."""
    return hmac.compare_digest(_digest(secret), bytes(digest))


def _digest(secret: str) -> bytes:
    return hmac.digest(settings.KEY_PEPPER, secret.encode(), sha256)
