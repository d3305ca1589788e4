"""Waiting for another process, as short as possible."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    """Return as soon as the condition holds; fail when it does not within ``seconds``."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {seconds} seconds"
        time.sleep(0.02)
