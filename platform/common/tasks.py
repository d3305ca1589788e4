"""Base of periodic tasks: however many beats and workers there are, one runs at a time."""

import zlib
from collections.abc import Callable
from functools import wraps

from django.db import connections

from common.database import SYSTEM


def single_flight(function: Callable[[], None]) -> Callable[[], None]:
    """Run ``function`` under a PostgreSQL advisory lock of its name; where it runs already, do nothing.

    A session lock, because the work commits many short transactions; it goes with the connection when the
    process dies.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    key = zlib.crc32(name.encode())

    @wraps(function)
    def run() -> None:
        with connections[SYSTEM].cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
            (acquired,) = cursor.fetchone()
        if not acquired:
            return
        try:
            function()
        finally:
            with connections[SYSTEM].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])

    return run
