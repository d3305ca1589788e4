"""Alice has something of every kind."""

from pathlib import Path

import pytest

from tests.support.cast import Cast
from tests.support.everything import Everything, make_everything


@pytest.fixture
def everything(cast: Cast, tmp_path: Path) -> Everything:
    """What Alice has."""
    return make_everything(cast.alice, tmp_path)
