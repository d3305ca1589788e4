"""Signed manifests: where a fine-tuned model comes from, provable with one public key and without this installation.

The signature (Ed25519, RFC 8032) is over the bytes of ``manifest.json`` as they are handed out, so that any tool checks
it, OpenSSL among them (infra/docs/models.md). Its key is derived from the installation's secret: there is nothing more
to keep, and to lose.
"""

from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

ALGORITHM = "ed25519"
_PURPOSE = b"hone: manifests of fine-tuned models"
"""What the derived key is for: another purpose would have another key."""


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """The public half, as customers get it."""

    id: str
    """First half of the SHA-256 of the raw key, in hexadecimal."""
    pem: str


def signing_key() -> SigningKey:
    """With what the manifests of this installation are verified."""
    public = _private_key().public_key()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(id=sha256(raw).hexdigest()[:32], pem=pem.decode())


def manifest_text(manifest: dict[str, object]) -> str:
    """The content of ``manifest.json``: the same members always make the same text."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(manifest, option=options).decode()


def sign(text: str) -> str:
    """The signature over a manifest's text, in base64."""
    return b64encode(_private_key().sign(text.encode())).decode()


@lru_cache(maxsize=1)
def _private_key() -> Ed25519PrivateKey:
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE)
    return Ed25519PrivateKey.from_private_bytes(derivation.derive(settings.KEY_PEPPER))
