"""Who looks at the rows of files, by the files' purpose: an app registers its inspector in ``AppConfig.ready``.

What every inspector notes in the same way stands here, too: problems, and the bad rows themselves for download.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import orjson

from common.storage import IncomingBlob
from files.models import FileReport, StoredFile
from files.sensitive import SECRETS, kinds_in
from files.statistics import Lines
from tenants.models import ApiKey, Project

MAX_LISTED = 100
"""Bad rows named in the report itself; the download names all of them."""
MAX_REJECT_BYTES = 64 * 1024
"""Of a bad row so much stands in the download."""


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """Something in a file that keeps it from its use. ``line`` counts from 1; None is the file as a whole."""

    line: int | None
    pointer: str
    """JSON pointer (RFC 6901) of the culprit within the row, of a table's row ``/column``; empty for all of it."""
    code: str
    message: str
    fix: str
    """What to do about it."""
    param: str | None = None
    """The request's parameter that names the file, where there are several."""


class Inspector(ABC):
    """Looks at the files of one purpose."""

    purpose: ClassVar[StoredFile.Purpose]
    starts_by_itself: ClassVar[bool] = False
    """Whether a file is looked at as soon as it is there, or when its report is asked for."""

    @abstractmethod
    def check_options(self, *, project: Project, key: ApiKey, options: Mapping[str, str]) -> None:
        """Raise :class:`common.errors.HoneError` for options that mean nothing. Called inside the scope."""

    @abstractmethod
    def queue(self, report: FileReport) -> None:
        """Have the work done that :func:`files.reports.write_report` is; sets ``report.lease_id``. Inside the scope."""

    @abstractmethod
    def inspect(self, report: FileReport, notes: "Notes", progress: Callable[[int], None]) -> dict[str, Any]:
        """Look at the file and return what ``notes`` does not say; ``progress`` takes the bytes read so far.

        Outside of transactions. Raises :class:`files.lines.FileError` for what has no rows to speak of.
        """

    def describe(self, report: FileReport) -> dict[str, Any]:
        """What changes after the report was written, such as prices. Called inside the scope."""
        return {}


_inspectors: dict[str, Inspector] = {}


def register_inspector(inspector: Inspector) -> None:
    """Make known who looks at the files of a purpose."""
    _inspectors[inspector.purpose] = inspector


def inspector_of(purpose: str) -> Inspector | None:
    """Who looks at the files of this purpose, if anybody does."""
    return _inspectors.get(purpose)


@dataclass
class Notes:
    """Problems and sensitive texts of a file; bad rows go straight to ``rejects``."""

    rejects: IncomingBlob
    problems: list[RowProblem] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    bad_rows: int = 0
    sensitive: dict[str, Lines] = field(default_factory=dict)

    def good_row(self) -> None:
        """A row without a problem."""
        self.rows += 1

    def bad_row(self, problems: Sequence[RowProblem], *, raw: bytes) -> None:
        """A row with problems, and its bytes."""
        self.rows += 1
        self.bad_rows += 1
        for problem in problems:
            self.codes[problem.code] += 1
            if len(self.problems) < MAX_LISTED:
                self.problems.append(problem)
        named = [_render(problem) for problem in problems]
        row = {"line": problems[0].line, "problems": named, "row": _readable(raw)}
        self.rejects.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def whole_file(self, problem: RowProblem) -> None:
        """A problem of the file, not of a row."""
        self.codes[problem.code] += 1
        self.problems.insert(0, problem)

    def search(self, raw: bytes, *, line: int) -> None:
        """Look for secrets and personal data in a row's bytes."""
        for kind in kinds_in(raw.decode(errors="replace")):
            self.sensitive.setdefault(kind, Lines()).add(line)

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": {"total": self.rows, "valid": self.rows - self.bad_rows, "invalid": self.bad_rows},
            "problems": {
                "count": self.codes.total(),
                "by_code": dict(self.codes.most_common()),
                "data": [_render(problem) for problem in self.problems],
                "has_more": self.codes.total() > len(self.problems),
            },
            "sensitive": [
                {"kind": kind, "is_secret": kind in SECRETS, **lines.describe()}
                for kind, lines in sorted(self.sensitive.items())
            ],
        }


def _render(problem: RowProblem) -> dict[str, Any]:
    rendered = asdict(problem)
    if problem.param is None:
        del rendered["param"]
    return rendered


def _readable(raw: bytes) -> Any:
    """A row as JSON if it is JSON, and as text otherwise."""
    if len(raw) > MAX_REJECT_BYTES:
        return raw[:MAX_REJECT_BYTES].decode(errors="replace")
    try:
        value = orjson.loads(raw)
        orjson.dumps(value)  # nests less deep than it reads
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return raw.decode(errors="replace").rstrip("\r\n")
    return value
