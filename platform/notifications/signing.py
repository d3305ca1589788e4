"""Signatures as Standard Webhooks defines them (https://www.standardwebhooks.com), which the OpenAI SDK verifies.

An endpoint's secret is derived from the installation's pepper, the endpoint's id and a version, and stored nowhere:
a dump of the database holds nothing that could sign, and rotating is counting up.
"""

import hmac
from base64 import b64decode, b64encode
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from django.conf import settings

PREFIX = "whsec_"


def signing_secret(*, endpoint_id: UUID, version: int) -> str:
    """``whsec_`` and 256 bits in base64."""
    # The label keeps these digests apart from those of API keys, which have the same pepper.
    message = b"webhook:" + endpoint_id.bytes + version.to_bytes(4)
    return PREFIX + b64encode(hmac.digest(settings.KEY_PEPPER, message, sha256)).decode()


def valid_secrets(*, endpoint_id: UUID, version: int, previous_until: datetime | None, at: datetime) -> list[str]:
    """The secrets that sign at a moment: the newest, and the one before it while the two overlap."""
    overlaps = previous_until is not None and at < previous_until
    versions = [version, version - 1] if overlaps else [version]
    return [signing_secret(endpoint_id=endpoint_id, version=each) for each in versions]


def secret_hint(secret: str) -> str:
    """What a list may show of a secret."""
    return f"{PREFIX}...{secret[-5:-1]}"


def signature_headers(*, event_id: str, timestamp: int, body: bytes, secrets: list[str]) -> dict[str, str]:
    """The three headers of a request; one signature for each secret. ``timestamp`` in Unix seconds."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    return b64encode(hmac.digest(b64decode(secret.removeprefix(PREFIX)), signed, sha256)).decode()
