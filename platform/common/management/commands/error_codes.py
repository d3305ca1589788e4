"""Print the published table of error codes."""

from typing import Any

from django.core.management.base import BaseCommand

from common.errors import DATA_CODES, JOB_CODES, REQUEST_CODES, ROW_CODES, WORKER_CODES, ErrorKind

_INTRODUCTION = """# Error codes

Written by `manage.py error_codes`. An error is `{"error": {"message", "type", "param", "code"}}`, always with all four
members. With a status of 408, 409, 429 or 5xx the header `x-should-retry` says whether waiting may help; the SDK obeys
it. Quote the header `x-request-id` when you ask for help.
"""
_SECTIONS = {
    "Requests": REQUEST_CODES,
    "Rows of a batch: its `errors` and its error file, where codes of requests stand, too": ROW_CODES,
    "Rows of training data: a file's report, where codes of batches' rows stand, too": DATA_CODES,
    "Fine-tuning: the `error` of a job, where codes of requests stand, too": JOB_CODES,
    "Worker nodes: the internal API": WORKER_CODES,
}


class Command(BaseCommand):
    """``error_codes > infra/docs/errors.md``; a test fails while that file is not what this prints."""

    help = "Print the table of error codes as Markdown"

    def handle(self, *args: Any, **options: Any) -> None:
        """Print."""
        self.stdout.write(_INTRODUCTION, ending="")
        for title, codes in _SECTIONS.items():
            self.stdout.write(f"\n## {title}\n\n| code | status | type | retry | meaning |\n|---|---|---|---|---|")
            for code, kind in codes.items():
                self.stdout.write(_row(code, kind))


def _row(code: str, kind: ErrorKind) -> str:
    return f"| `{code}` | {kind.status} | `{kind.type}` | {'yes' if kind.retry else 'no'} | {kind.meaning} |"
