"""An instance with a fast stand-in for the engine: most of what the SDK does asks for no model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.dev.instance import Instance, running_instance
from tests.support.node import install_packages
from tests.support.stand_in_node import WORKER_ENVIRONMENT, write_nodes

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def packages() -> None:
    """The SDK, from the lock in this folder."""
    install_packages(FOLDER)


@pytest.fixture(scope="module")
def mail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quick instance's mail goes."""
    return tmp_path_factory.mktemp("mail")


@pytest.fixture(scope="module")
def quick_instance(tmp_path_factory: pytest.TempPathFactory, mail: Path) -> Iterator[Instance]:
    """Hone with one node."""
    folder = tmp_path_factory.mktemp("node-sdk")
    environment = {
        **WORKER_ENVIRONMENT,
        "EMAIL_URL": f"filemail:///{mail}",  # one slash of the path is the separator's
        "HONE_BATCH_CANCEL_GRACE_SECONDS": "1",
        "HONE_NODE_POLL_SECONDS": "0.5",
        "HONE_WEBHOOK_ALLOW_PRIVATE": "true",
    }
    configs = write_nodes(folder, "quick")
    with running_instance(home=folder / "home", node_configs=configs, environment=environment, timeout=300) as running:
        yield running
