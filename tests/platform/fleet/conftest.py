"""Most tests of the fleet need work, and work needs a model."""

from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.model import add_model


@pytest.fixture
def model(cast: Cast, tmp_path: Path) -> None:
    """A model of one token per byte and a context of 4,096."""
    add_model(tmp_path / "model")
