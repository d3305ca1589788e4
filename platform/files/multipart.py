"""Multipart bodies, streamed: Django's own parser accepts a body that was cut off, this one does not."""

from dataclasses import dataclass, field
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header
from rest_framework.request import Request

from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob

MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 64


@dataclass
class Form:
    """The form fields of a request, and the name of the file that is being received with them."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


def receive(request: Request, blob: IncomingBlob, *, file_field: str = "file") -> Form:
    """Read the whole body: the part ``file_field`` goes to ``blob``, all others are short texts.

    Reads the server's stream itself, so that a body of unknown length (chunked) works like any other.
    """
    content_type, options = parse_options_header(request.content_type or "")
    if content_type != "multipart/form-data":
        raise HoneError("unsupported_media_type", "Send the file as multipart/form-data")
    environment = request.META
    length = int(environment.get("CONTENT_LENGTH") or -1)
    remaining = length if length >= 0 else None
    stream = environment["wsgi.input"]
    reader = _Reader(blob, file_field)
    try:
        parser = PushMultipartParser(
            options.get("boundary", ""), content_length=length, max_segment_count=MAX_FIELDS, strict=False
        )
        while not parser.closed:
            wanted = CHUNK_BYTES if remaining is None else min(CHUNK_BYTES, remaining)
            chunk = stream.read(wanted) if wanted else b""
            if remaining is not None:
                remaining -= len(chunk)
            # An empty chunk closes the parser, which raises unless the last boundary has been seen.
            for event in parser.parse(chunk):
                reader.take(event)
    except ParserLimitReached as error:
        raise HoneError("request_too_large", f"The form is too large: {error}") from error
    except (MultipartError, OSError) as error:
        raise HoneError("invalid_multipart", f"The upload is malformed or was cut off: {error}") from error
    return reader.finish()


class _Reader:
    """Sorts the parser's events into fields and the file."""

    def __init__(self, blob: IncomingBlob, file_field: str) -> None:
        self._blob = blob
        self._file_field = file_field
        self._form = Form()
        self._segment: MultipartSegment | None = None
        self._value = bytearray()

    def take(self, event: Any) -> None:
        """One event: a segment begins, a piece of it, or None at its end."""
        if isinstance(event, MultipartSegment):
            self._segment = event
            self._value.clear()
            if not event.name:
                raise HoneError("invalid_multipart", "A part of the form has no name")
            if event.name == self._file_field:
                if self._form.filename is not None:
                    raise HoneError("invalid_multipart", f"More than one part is named '{self._file_field}'")
                self._form.filename = event.filename or self._file_field
        elif self._segment is not None and self._segment.name == self._file_field:
            if event is not None:
                self._blob.write(bytes(event))
        elif event is not None:
            self._value += event
            if len(self._value) > MAX_FIELD_BYTES:
                raise HoneError("request_too_large", f"A form field may hold at most {MAX_FIELD_BYTES} bytes")
        elif self._segment is not None:
            try:
                self._form.fields[self._segment.name] = self._value.decode()
            except UnicodeDecodeError as error:
                raise HoneError("invalid_multipart", f"Field '{self._segment.name}' is not UTF-8") from error

    def finish(self) -> Form:
        """What was received; a missing file is an error."""
        if self._form.filename is None:
            name = self._file_field
            raise HoneError("missing_required_parameter", f"Missing required parameter: '{name}'.", param=name)
        return self._form
