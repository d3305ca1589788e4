"""JSON Lines read at constant memory, however long the file or one of its lines is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n" + _BOM
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class FileError(Exception):
    """The file as a whole cannot be a batch."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Line:
    """One non-blank line. ``data`` is None when it is longer than allowed; its bytes have been skipped then."""

    number: int
    offset: int
    length: int
    data: bytes | None


def read_lines(file: IO[bytes], *, max_bytes: int) -> Iterator[Line]:
    """The non-blank lines; blank ones keep their number. Raises :class:`FileError` for what is no JSON Lines."""
    offset = 0
    number = 0
    is_first = True
    while data := file.readline(max_bytes + 1):
        number += 1
        length = len(data)
        is_whole = length <= max_bytes or data.endswith(b"\n")
        if not is_whole:
            while rest := file.readline(max_bytes):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        if not is_whole or data.strip(_BLANK):
            if is_first:
                _check_start(data)
                is_first = False
            yield Line(number, offset, length, data if is_whole else None)
        offset += length


def parse_line(data: bytes) -> Any:
    """The JSON value of a line; ``orjson.JSONDecodeError`` also for bad UTF-8 and for nesting too deep."""
    return orjson.loads(data.removeprefix(_BOM))


def _check_start(data: bytes) -> None:
    # JSON begins with an ASCII character, so a NUL beside it is the other half of a wider one.
    if data.startswith(_UTF16_BOMS) or b"\0" in data[:4]:
        raise FileError("invalid_encoding", "The file is not UTF-8 (it looks like UTF-16 or UTF-32); save it as UTF-8")
    if data.removeprefix(_BOM).lstrip().startswith(b"["):
        raise FileError("invalid_jsonl", "The file is a JSON array; write one object per line instead (JSON Lines)")
