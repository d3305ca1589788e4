"""Base of periodic tasks: however many beats and workers there are, one runs at a time."""

import zlib
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import structlog
from django.db import connections

from common.database import SYSTEM

logger = structlog.get_logger(__name__)

Parameters = ParamSpec("Parameters")


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


def attempt(work: Callable[Parameters, object], *args: Parameters.args, **kwargs: Parameters.kwargs) -> bool:
    """Do one of many pieces of work; whether that went well.

    One that fails is logged, and must not keep the others waiting for ever.
    """
    try:
        work(*args, **kwargs)
    except Exception:
        logger.exception(
            "periodic work failed", work=work.__name__, of=[str(value) for value in (*args, *kwargs.values())]
        )
        return False
    return True
