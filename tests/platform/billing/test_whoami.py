"""A key explains itself."""

from pathlib import Path

from common.money import NANOS_PER_USD
from tenants.models import ApiKey
from tenants.permissions import ADMIN_SCOPES
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.cast import MODEL, ApiClient, Cast
from tests.support.model import add_model


def test_a_project_key(cast: Cast, tmp_path: Path) -> None:
    for name in (MODEL, "other"):
        add_model(tmp_path / "model", name=name)
    issued = create_api_key(
        project=cast.alice.project, name="Narrow", actor="system", scopes=frozenset({"files.read"}),
        allowed_models=[MODEL],
    )  # fmt: skip
    path = f"/v1/organization/projects/{cast.alice.project.wire_id}/rate_limits"
    limits = cast.alice.admin.get(path).json()["data"]
    assert ApiClient(issued.token).get("/v1/whoami").json() == {
        "object": "whoami",
        "organization": {"id": cast.alice.organization.wire_id, "name": "Alice's company"},
        "project": {"id": cast.alice.project.wire_id, "name": "Default project"},
        "key": {
            "id": issued.key.wire_id,
            "name": "Narrow",
            "kind": "project",
            "created_at": int(issued.key.created_at.timestamp()),
            "expires_at": None,
        },
        "scopes": ["files.read"],
        "models": [MODEL],
        "rate_limits": limits[:1],
        "budget": {"currency": "usd", "available": "100", "available_nanos": 100 * NANOS_PER_USD},
    }


def test_an_admin_key(cast: Cast) -> None:
    with tenant_scope(cast.alice.organization.id):
        key = ApiKey.objects.get(kind=ApiKey.Kind.ADMIN)
    found = cast.alice.admin.get("/v1/whoami").json()
    assert (found["project"], found["models"], found["rate_limits"]) == (None, [], [])
    assert (found["key"]["id"], found["key"]["kind"]) == (key.wire_id, "admin")
    assert found["scopes"] == sorted(ADMIN_SCOPES)
