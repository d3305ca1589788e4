"""Fine-tuning needs a model with a chat template."""

from pathlib import Path

import pytest

from catalog.models import BaseModel
from tests.support.cast import Cast
from tests.support.model import add_chat_model


@pytest.fixture
def base(cast: Cast, tmp_path: Path) -> BaseModel:
    """A model of one token per byte, with tokens of its own around turns and a context of 4,096."""
    return add_chat_model(tmp_path / "model")


@pytest.fixture
def model(base: BaseModel) -> BaseModel:
    """The same, for tests that only need it to be there."""
    return base
