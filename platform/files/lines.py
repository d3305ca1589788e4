"""JSON Lines read at constant memory, however long the file or one of its lines is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n" + BOM
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class FileError(Exception):
    """The file as a whole cannot be read for its purpose."""

    def __init__(self, code: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix


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
    return orjson.loads(data.removeprefix(BOM))


def check_encoding(data: bytes) -> None:
    """Raise :class:`FileError` when a file that begins like this is UTF-16 or UTF-32."""
    # Such files begin with an ASCII character, so a NUL beside it is the other half of a wider one.
    if data.startswith(_UTF16_BOMS) or b"\0" in data[:4]:
        raise FileError(
            "invalid_encoding",
            "The file is not UTF-8 (it looks like UTF-16 or UTF-32); save it as UTF-8",
            "Choose UTF-8 where the file is saved (in a spreadsheet: CSV UTF-8)",
        )


def _check_start(data: bytes) -> None:
    check_encoding(data)
    if data.removeprefix(BOM).lstrip().startswith(b"["):
        raise FileError(
            "invalid_jsonl",
            "The file is a JSON array; write one object per line instead (JSON Lines)",
            "Take away the brackets around the objects and the commas between them",
        )
