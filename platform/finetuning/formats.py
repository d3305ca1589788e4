"""Rows of training files, JSON Lines or tables, read at constant memory and known by their lines."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Self

import orjson

from files.lines import BOM, FileError, check_encoding, parse_line, read_lines
from finetuning.problems import RowError

DELIMITERS = {"csv": ",", "tsv": "\t"}
MAX_LINE_BYTES = 4 * 1024 * 1024
_SNIFFED = (";", "\t", "|", ",")


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One row as it stands in the file; of a table its cells by column. Without ``value`` it could not be read."""

    line: int
    """The row's first line, counted from 1."""
    value: dict[str, Any] | None
    error: RowError | None = None
    raw: bytes = b""
    """The row's bytes, or the beginning of them where they are too many."""


def is_table(filename: str) -> bool:
    """Whether a file of this name is CSV or TSV; everything else is JSON Lines."""
    return _extension(filename) in DELIMITERS


def read_rows(file: IO[bytes], *, filename: str, delimiter: str | None = None) -> Iterator[SourceRow]:
    """The rows, those that are not well-formed included. Raises :class:`FileError` for what has no rows to speak of."""
    if is_table(filename):
        yield from _Table(file, delimiter or DELIMITERS[_extension(filename)]).rows()
    else:
        yield from _read_json_lines(file)


def read_columns(file: IO[bytes], *, filename: str, delimiter: str | None = None) -> list[str] | None:
    """The columns of a table; None for JSON Lines."""
    if not is_table(filename):
        return None
    return _Table(file, delimiter or DELIMITERS[_extension(filename)]).read_header()


def _extension(filename: str) -> str:
    return filename.rpartition(".")[2].lower()


def _read_json_lines(file: IO[bytes]) -> Iterator[SourceRow]:
    is_empty = True
    for line in read_lines(file, max_bytes=MAX_LINE_BYTES):
        is_empty = False
        if line.data is None:
            yield SourceRow(line=line.number, value=None, error=_too_large(line.length))
            continue
        try:
            yield SourceRow(line=line.number, value=_parse(line.data), raw=line.data)
        except RowError as error:
            yield SourceRow(line=line.number, value=None, error=error, raw=line.data)
    if is_empty:
        raise FileError("empty_file", "The file holds no row", "Upload a file with rows")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = parse_line(data)
        orjson.dumps(value)  # nests less deep than it reads
    except orjson.JSONDecodeError as error:
        try:
            data.decode()
        except UnicodeDecodeError as reason:
            raise _not_utf8(reason) from error
        raise RowError(
            "invalid_json_line",
            "",
            f"The line is not valid JSON: {error.msg} (column {error.colno})",
            "Write one complete JSON object on the line; line breaks inside of texts are written \\n",
        ) from error
    except orjson.JSONEncodeError as error:
        raise RowError("invalid_row", "", "The line nests too deeply", "Flatten the object") from error
    if not isinstance(value, dict):
        raise RowError(
            "invalid_row",
            "",
            "The line is JSON, but no object",
            'Write an object, for example {"messages": [...]}',
        )
    return value


class _Lines:
    """The lines of a table, which can be read again; an iterator that goes on after it has raised."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._pending: deque[bytes] = deque()
        self.taken: list[bytes] = []
        """Lines of the row that is being read."""
        self.number = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        data = self._pending.popleft() if self._pending else self._file.readline(MAX_LINE_BYTES + 1)
        if not data:
            raise StopIteration
        self.number += 1
        if self.number == 1:
            check_encoding(data)
            data = data.removeprefix(BOM)
        self.taken.append(data)
        if len(data) > MAX_LINE_BYTES:
            length = len(data)
            while not data.endswith(b"\n") and (data := self._file.readline(MAX_LINE_BYTES)):
                length += len(data)
            raise _too_large(length)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error

    def take_row(self) -> bytes:
        """The bytes of the row that has been read."""
        raw = b"".join(self.taken)
        self.taken.clear()
        return raw

    def rewind(self) -> None:
        """Go back to the line below the row's first."""
        again = self.taken[1:]
        self._pending.extendleft(reversed(again))
        self.number -= len(again)
        del self.taken[1:]


class _Table:
    """CSV as RFC 4180 has it, with any delimiter. After a broken row reading goes on with the line below its first."""

    def __init__(self, file: IO[bytes], delimiter: str) -> None:
        self._delimiter = delimiter
        self._lines = _Lines(file)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)

    def read_header(self) -> list[str]:
        """The names of the columns; :class:`FileError` when the first line has none that can be used."""
        try:
            names = [name.strip() for name in next(self._reader)]
        except StopIteration:
            raise FileError("empty_file", "The file holds no row", "Upload a file with rows") from None
        except (csv.Error, RowError) as error:
            raise _bad_header(f"The first line does not name the columns: {error}") from error
        self._lines.take_row()
        if len(names) == 1 and (found := next((other for other in _SNIFFED if other in names[0]), None)):
            raise FileError(
                "invalid_header",
                f"The first line is one column, {names[0][:80]!r}",
                f"If {found!r} separates the columns, give it as 'delimiter' in the column mapping",
            )
        if not all(names) or len(set(names)) < len(names):
            raise _bad_header("The first line gives not every column a name of its own")
        return names

    def rows(self) -> Iterator[SourceRow]:
        """What follows the first line."""
        names = self.read_header()
        is_empty = True
        while True:
            first = self._lines.number + 1
            error = None
            cells: list[str] = []
            try:
                cells = next(self._reader)
            except StopIteration:
                break
            except RowError as problem:
                error = problem
            except csv.Error as problem:
                error = _broken(problem)
                self._lines.rewind()
            raw = self._lines.take_row()
            if not cells and error is None:
                continue  # a blank line
            is_empty = False
            if error is None and len(cells) != len(names):
                error = RowError(
                    "wrong_column_count",
                    "",
                    f"The row has {len(cells)} cells, the first line {len(names)} columns",
                    f"Put texts that hold {self._delimiter!r} or line breaks in double quotes, and double the quotes "
                    "inside of them",
                )
            value = None if error else dict(zip(names, cells, strict=True))
            yield SourceRow(line=first, value=value, error=error, raw=raw)
        if is_empty:
            raise FileError("empty_file", "The file holds no row below its first line", "Upload a file with rows")


def _bad_header(message: str) -> FileError:
    return FileError("invalid_header", message, "Write the names of the columns into the first line, each once")


def _broken(error: csv.Error) -> RowError:
    return RowError(
        "invalid_csv_row",
        "",
        f"The row is not valid CSV: {error}",
        "Close each double quote before the delimiter, and double the quotes inside of quoted texts",
    )


def _too_large(length: int) -> RowError:
    return RowError(
        "line_too_large",
        "",
        f"The line has {length} bytes; at most {MAX_LINE_BYTES} are allowed",
        "Split the row: so much text is cut at the model's limit anyway",
    )


def _not_utf8(error: UnicodeDecodeError) -> RowError:
    return RowError(
        "invalid_encoding",
        "",
        f"Byte {error.start + 1} of the line is not UTF-8",
        "Save the file as UTF-8 (in a spreadsheet: CSV UTF-8)",
    )
