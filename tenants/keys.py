"""Bearer secrets: ``<prefix><public id>_<secret>``, of which only a keyed digest is ever stored."""

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256

from django.conf import settings


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
    match = re.fullmatch(r"([0-9a-f]{16})_([0-9a-f]{64})", token.removeprefix(prefix))
    return (match[1], match[2]) if match and token.startswith(prefix) else None


def matches(secret: str, digest: bytes | memoryview) -> bool:
    """Whether the stored digest is this secret's, in constant time."""
    return hmac.compare_digest(_digest(secret), bytes(digest))


def _digest(secret: str) -> bytes:
    return hmac.digest(settings.KEY_PEPPER, secret.encode(), sha256)
