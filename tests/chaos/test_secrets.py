"""After all that has been done to the instance, no secret stands where somebody might read it.

Last in the alphabet, so that it finds what the other tests have left behind; by itself it makes some work of its own.
"""

import base64
import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

from infra.dev.instance import Instance
from infra.dev.postgres import SUPERUSER, find_binaries
from tests.chaos.processes import NODES, engine, wait_for
from tests.e2e.jobs import requests, submit, wait_for_end
from tests.support.cast import MODEL
from tests.support.customers import Customer

ENCODERS = (base64.b64encode, base64.urlsafe_b64encode)


def test_no_secret_is_in_a_log_an_error_or_the_database(instance: Instance, alice: Customer, charlie: Customer) -> None:
    keys = [key for customer in (alice, charlie) for key in (customer.api_key, customer.admin_key)]
    tokens = [path.read_text().strip() for path in sorted(instance.home.glob("*.token"))]
    assert len(tokens) == len(NODES)
    engine_keys = [wait_for(partial(engine, instance, node)).environ()["VLLM_API_KEY"] for node in NODES]
    hook = alice.client.webhooks.create(
        name="secret", url="https://hooks.example.com/", event_types=["batch.completed"]
    )  # fmt: skip
    issued = [*keys, *tokens, *engine_keys, hook.signing_secret, *service_secrets(instance).values()]
    wait_for_end(alice.client, submit(alice.client, requests(4, model=MODEL)))
    errors = [answer for secret in [*keys, *tokens] for answer in provoke_errors(instance, alice, secret)]
    logs = "".join(path.read_text(errors="replace") for path in sorted((instance.home / "logs").iterdir()))
    broker = "".join(path.read_text(errors="replace") for path in (instance.home / "valkey").rglob("*.aof"))
    dump = database_dump(instance)

    assert [leaks(text, issued) for text in (logs, "".join(errors), broker, dump)] == [[], [], [], []]
    # What may be known is there, so the search has looked in the right places.
    organization, public_id = alice.organization_id.removeprefix("org_"), alice.api_key.split("_")[2]
    assert f"hone_sk_{public_id}***" in logs
    assert f"hone_sk_{public_id}***" in "".join(errors)
    assert "fleet.tasks" in broker
    assert public_id in dump
    assert f"{organization[:8]}-" in dump
    assert "batch.completed" in dump  # an audit row


def service_secrets(instance: Instance) -> Mapping[str, str]:
    """Passwords and keys of the installation, as the launcher keeps them."""
    known: dict[str, str] = json.loads((instance.home / "secrets.json").read_text())
    return known


def leaks(text: str, secrets: list[str]) -> list[str]:
    """Which of the secrets the text holds, whole or without their public part, plain, in hexadecimal or base64."""
    found = []
    for secret in secrets:
        parts = {secret, secret.rpartition("_")[2] if secret.startswith(("hone_", "whsec_")) else secret}
        raw = [part.encode() for part in parts] + [bytes.fromhex(part) for part in parts if is_hexadecimal(part)]
        spellings = {*parts, *(value.hex() for value in raw)}
        spellings |= {encode(value).decode().rstrip("=") for value in raw for encode in ENCODERS}
        found += [spelling for spelling in spellings if spelling in text]
    return found


def is_hexadecimal(text: str) -> bool:
    return len(text) % 2 == 0 and all(character in "0123456789abcdef" for character in text)


def provoke_errors(instance: Instance, customer: Customer, secret: str) -> list[str]:
    """Errors and their headers, to requests with the secret where it does not belong."""
    own = customer.api_key
    return [
        call(instance, "GET", f"/v1/files/{secret}", own),
        call(instance, "GET", f"/v1/{secret}?key={secret}", own),
        call(instance, "GET", f"/v1/files?after={secret}&purpose={secret}", own),
        call(instance, "GET", f"/v1/models/{secret}", own),
        call(instance, "POST", "/v1/batches", own, {secret: 1, "input_file_id": secret, "endpoint": secret}),
        call(instance, "GET", "/v1/models", f"{secret}0"),
        call(instance, "GET", "/v1/models", secret.replace("_sk_", "_ak_")),
        call(instance, "POST", f"/internal/v1/leases/{secret}/complete", secret, {"node_id": secret}),
        call(instance, "POST", "/internal/v1/nodes", f"{secret}0", {"protocol": secret}),
    ]


def call(instance: Instance, method: str, path: str, token: str, body: object = None) -> str:
    """Make a request that must be refused; everything that comes back."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "X-Client-Request-Id": token}
    connection = http.client.HTTPConnection(urlsplit(instance.base_url).netloc, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        assert 400 <= answer.status < 500, (method, path.partition(token)[0], answer.status)
        return f"{answer.headers}{answer.read().decode()}"
    finally:
        connection.close()


def database_dump(instance: Instance) -> str:
    """Every table and every row, as the superuser sees them."""
    address = urlsplit(instance.environment["DATABASE_URL"])
    command = [
        str(find_binaries() / "pg_dump"), "--host", "127.0.0.1", "--port", str(address.port), "--username", SUPERUSER,
        "--no-password", address.path.removeprefix("/"),
    ]  # fmt: skip
    environment = {**os.environ, "PGPASSWORD": service_secrets(instance)[SUPERUSER], "PGSSLMODE": "disable"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
