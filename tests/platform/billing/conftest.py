"""Dora begins with exactly ten dollars."""

import pytest

from common.money import NANOS_PER_USD
from tests.support.cast import Member, make_member


@pytest.fixture
def dora(database: None) -> Member:
    """Whose books these tests look at."""
    return make_member("Dora", credit_nanos=10 * NANOS_PER_USD)
