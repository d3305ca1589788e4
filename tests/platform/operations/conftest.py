"""Alice and Charlie have something of every kind."""

from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.everything import Everything, make_everything
from tests.support.worker import run_control


@pytest.fixture
def everything(cast: Cast, tmp_path: Path) -> Everything:
    """What Alice has; Charlie has the like."""
    made = make_everything(cast.alice, tmp_path / "alice")
    cast.charlie.client.upload(b'{"of": "Charlie"}\n')
    run_control()  # Alice's second batch waits for a worker
    return made
