"""One real instance for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.dev.instance import Instance, empty_home, running_instance
from tests.support.customers import Customer, make_customer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """Hone with SmolLM2 on the CPU; the prepared model is shared with ``make run``."""
    with running_instance(home=empty_home("e2e")) as running:
        yield running


@pytest.fixture
def alice(instance: Instance) -> Iterator[Customer]:
    """A customer."""
    customer = make_customer(instance, "Alice")
    with customer.client:
        yield customer


@pytest.fixture
def charlie(instance: Instance) -> Iterator[Customer]:
    """A stranger."""
    customer = make_customer(instance, "Charlie")
    with customer.client:
        yield customer
