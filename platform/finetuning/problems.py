"""How a row's problem travels."""

from dataclasses import dataclass

from files.inspection import RowProblem


@dataclass(eq=False)
class RowError(Exception):
    """What is wrong with a row: a published code, where, the message and what to do about it."""

    code: str
    pointer: str
    message: str
    fix: str

    def at(self, line: int, *, param: str | None = None) -> RowProblem:
        """As the problem of a line."""
        return RowProblem(
            line=line, pointer=self.pointer, code=self.code, message=self.message, fix=self.fix, param=param
        )


def pointer(*path: str | int) -> str:
    """The JSON pointer (RFC 6901) of a member."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
