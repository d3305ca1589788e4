"""Batches need a model in the catalogue."""

from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.model import add_model


@pytest.fixture(autouse=True)
def model(cast: Cast, tmp_path: Path) -> None:
    """A model of one token per byte and a context of 4,096."""
    add_model(tmp_path / "model")
