"""Each flow is a program below ``flows/``, run with a customer of its own."""

from pathlib import Path

import pytest

from infra.dev.instance import Instance
from tests.e2e.jobs import MODEL as REAL_MODEL
from tests.e2e.node.conftest import FOLDER
from tests.support.cast import MODEL
from tests.support.customers import Customer, make_customer
from tests.support.node import node, run

FLOWS = sorted(path.stem for path in (FOLDER / "flows").glob("*.mjs"))


def follow(flow: str, customer: Customer, **environment: str) -> None:
    """Run a flow to its end."""
    keys = {
        "HONE_URL": customer.base_url.removesuffix("/v1"),
        "HONE_API_KEY": customer.api_key,
        "HONE_ADMIN_KEY": customer.admin_key,
        "HONE_ORGANIZATION": customer.organization_id,
    }
    run([node(), Path("flows", f"{flow}.mjs")], folder=FOLDER, environment={**keys, **environment}, seconds=600)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow(packages: None, quick_instance: Instance, mail: Path, flow: str) -> None:
    customer = make_customer(quick_instance, "Alice")
    follow(flow, customer, HONE_MODEL=MODEL, HONE_MAIL=str(mail))


def test_a_batch_is_answered_by_a_real_engine(packages: None, alice: Customer) -> None:
    follow("batch_answered", alice, HONE_MODEL=REAL_MODEL)
