"""One instance with two nodes for all of these tests: real processes, only the engine is a fast stand-in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.dev.instance import Instance, running_instance
from tests.chaos.processes import NODES
from tests.support.customers import Customer, make_customer
from tests.support.stand_in_node import WORKER_ENVIRONMENT, write_nodes

ROW_MILLISECONDS = 200
IN_FLIGHT = 4
ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    "LOG_LEVEL": "INFO",
    "LOG_JSON": "true",
    # Short, so that what is lost is noticed within seconds. A lease must outlive a restart of web on a busy machine.
    "HONE_LEASE_SECONDS": "8",
    "HONE_NODE_HEARTBEAT_SECONDS": "1",
    "HONE_NODE_POLL_SECONDS": "0.5",
    "HONE_BATCH_CANCEL_GRACE_SECONDS": "3",
    # Several leases per batch for either node.
    "HONE_BATCH_SHARD_MAX_ROWS": "32",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything below this folder is chaos."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Hone with two nodes that serve the same model, a few rows at a time."""
    folder = tmp_path_factory.mktemp("chaos")
    configs = write_nodes(folder, *NODES, row_milliseconds=ROW_MILLISECONDS, in_flight=IN_FLIGHT)
    with running_instance(home=folder / "home", node_configs=configs, environment=ENVIRONMENT, timeout=180) as running:
        yield running


@pytest.fixture(scope="session")
def alice(instance: Instance) -> Iterator[Customer]:
    """A customer."""
    customer = make_customer(instance, "Alice", credit_usd=1_000)
    with customer.client:
        yield customer


@pytest.fixture(scope="session")
def charlie(instance: Instance) -> Iterator[Customer]:
    """A customer with an organisation of his own."""
    customer = make_customer(instance, "Charlie", credit_usd=1_000)
    with customer.client:
        yield customer
