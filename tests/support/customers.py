"""Customers of a running instance."""

import json
from dataclasses import dataclass

from openai import OpenAI

from infra.dev.instance import Instance


@dataclass(frozen=True)
class Customer:
    """An organisation of the running instance."""

    base_url: str
    organization_id: str
    api_key: str
    admin_key: str
    client: OpenAI
    """The unmodified SDK, refusing whatever its types do not allow; to be closed."""


def make_customer(instance: Instance, name: str, *, credit_usd: int = 5) -> Customer:
    """Create an organisation."""
    answer = instance.manage(
        "create_organization", "--name", name, "--owner-email", f"{name.lower()}@example.com",
        "--credit-usd", str(credit_usd),
    )  # fmt: skip
    made = json.loads(answer.splitlines()[-1])
    base_url, api_key = f"{instance.base_url}/v1", made["api_key"]
    client = OpenAI(base_url=base_url, api_key=api_key, _strict_response_validation=True)
    return Customer(base_url, made["organization_id"], api_key, made["admin_key"], client)
