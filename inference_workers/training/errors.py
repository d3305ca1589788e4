"""Why a run cannot go on."""

from __future__ import annotations


class TrainingError(Exception):
    """A run cannot go on, and the same folder again would end the same way.

    ``code`` is for programs, the message for the customer: it says what is wrong and what would be right.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class Stopped(Exception):
    """SIGTERM came: save and leave."""
