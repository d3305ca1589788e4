"""Identifiers: 128-bit UUIDs of version 7 inside, ``prefix + 32 hex digits`` on the wire.

Version 7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then 74 random bits. So ids sort by time of
creation, which makes them cursors for paging, and cannot be guessed.
"""

import secrets
import time
from uuid import UUID


def uuid7() -> UUID:
    """A new time-ordered, unguessable UUID."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def to_wire(prefix: str, value: UUID) -> str:
    """``batch_`` and a UUID -> ``batch_0199f2...``."""
    return f"{prefix}{value.hex}"


def from_wire(prefix: str, text: str) -> UUID | None:
    """The UUID of a wire id, or None when the text is not one that :func:`to_wire` could have made."""
    digits = text.removeprefix(prefix)
    if not text.startswith(prefix) or len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        return None
    return UUID(hex=digits)
