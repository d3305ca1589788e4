"""Receivers on this machine, which webhooks do not reach unless told."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.receiver import Receiver, open_receiver


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """A customer's server."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with open_receiver() as opened:
        yield opened


@pytest.fixture
def other_receiver(settings: Any) -> Iterator[Receiver]:
    """Another one."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with open_receiver() as opened:
        yield opened
