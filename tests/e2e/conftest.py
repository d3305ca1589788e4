"""One real instance for all end-to-end tests."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from infra.dev.instance import Instance, running_instance
from infra.dev.services import default_home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@dataclass(frozen=True)
class Customer:
    """An organisation of the running instance."""

    base_url: str
    api_key: str
    admin_key: str

    @property
    def client(self) -> OpenAI:
        """The unmodified SDK, refusing whatever its types do not allow."""
        return OpenAI(base_url=self.base_url, api_key=self.api_key, _strict_response_validation=True)


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
    return _customer(instance, "Alice")


@pytest.fixture
def charlie(instance: Instance) -> Customer:
    """A stranger."""
    return _customer(instance, "Charlie")


def _customer(instance: Instance, name: str) -> Customer:
    answer = instance.manage(
        "create_organization", "--name", name, "--owner-email", f"{name.lower()}@example.com", "--credit-usd", "5"
    )
    made = json.loads(answer.splitlines()[-1])
    return Customer(f"{instance.base_url}/v1", made["api_key"], made["admin_key"])
