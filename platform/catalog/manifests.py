"""Signed manifests: where a fine-tuned model comes from, provable with one public key and without this installation.

The signature (Ed25519, RFC 8032) is over the manifest as canonical JSON: members sorted, no white space, UTF-8. Its key
is derived from the installation's secret, so that there is nothing more to keep, and to lose.
"""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
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


def signed(manifest: dict[str, Any]) -> dict[str, Any]:
    """``{"manifest", "signature": {"algorithm", "key_id", "value"}}``, the value in base64."""
    value = _private_key().sign(canonical(manifest))
    signature = {"algorithm": ALGORITHM, "key_id": signing_key().id, "value": b64encode(value).decode()}
    return {"manifest": manifest, "signature": signature}


def is_genuine(envelope: dict[str, Any], *, pem: str) -> bool:
    """Whether what :func:`signed` has made was made with that key and has not been changed since."""
    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(b64decode(envelope["signature"]["value"]), canonical(envelope["manifest"]))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def canonical(manifest: object) -> bytes:
    """The bytes that are signed."""
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=1)
def _private_key() -> Ed25519PrivateKey:
    derivation = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE)
    return Ed25519PrivateKey.from_private_bytes(derivation.derive(settings.KEY_PEPPER))
