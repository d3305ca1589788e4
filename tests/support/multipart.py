"""Multipart bodies, good and bad, written by hand."""

from typing import Any

from tests.support.cast import Member

BOUNDARY = "boundary-of-the-tests"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
END = f"--{BOUNDARY}--\r\n".encode()


def field(name: str, value: str | bytes) -> bytes:
    """A part with a short text."""
    return _part(f'name="{name}"', value.encode() if isinstance(value, str) else value)


def file(content: bytes, *, name: str = "file", filename: str | bytes = "rows.jsonl") -> bytes:
    """A part with a file."""
    raw = filename.encode() if isinstance(filename, str) else filename
    return _part(f'name="{name}"; filename="'.encode() + raw + b'"', content)


def form(*parts: bytes) -> bytes:
    """The parts, closed."""
    return b"".join(parts) + END


def post(member: Member, body: bytes, *, content_type: str = CONTENT_TYPE, **options: Any) -> Any:
    """Send a body to ``POST /v1/files`` as it is."""
    return member.client.call("POST", "/v1/files", data=body, content_type=content_type, **options)


def _part(disposition: str | bytes, content: bytes) -> bytes:
    raw = disposition.encode() if isinstance(disposition, str) else disposition
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + raw + b"\r\n\r\n" + content + b"\r\n"
