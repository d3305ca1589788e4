"""What is wrong with a file's rows, and who looks."""

from dataclasses import dataclass


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
