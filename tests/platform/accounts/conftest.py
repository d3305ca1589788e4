"""Every test begins with nobody having tried anything."""

import pytest

from tests.support.sign_in import let_throttles_pass


@pytest.fixture(autouse=True)
def no_attempts() -> None:
    """Forget the attempts of the test before."""
    let_throttles_pass()
