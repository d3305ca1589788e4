"""One real instance for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.dev.instance import Instance, running_instance
from infra.dev.services import default_home
from tests.support.customers import Customer, make_customer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """Hone with SmolLM2 on the CPU; the prepared model is shared with ``make run``."""
    home = default_home() / "e2e"
    home.mkdir(parents=True, exist_ok=True)
    models = default_home() / "models"
    models.mkdir(exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(models)
    with running_instance(home=home) as running:
        yield running


@pytest.fixture
def alice(instance: Instance) -> Customer:
    """A customer."""
    return make_customer(instance, "Alice")


@pytest.fixture
def charlie(instance: Instance) -> Customer:
    """A stranger."""
    return make_customer(instance, "Charlie")
