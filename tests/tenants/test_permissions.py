"""The permission table, operation by operation; and what roles grant."""

import re
from importlib import import_module

import pytest

from common.ids import uuid7
from tenants.models import ApiKey, ProjectRole, Role
from tenants.permissions import (
    ADMIN,
    ADMIN_SCOPES,
    ALL_SCOPES,
    OPERATIONS,
    PROJECT_ROLE_SCOPES,
    PROJECT_SCOPES,
    ROLE_SCOPES,
)
from tenants.services import create_admin_key, create_api_key
from tests.support.blobs import blobs
from tests.support.cast import ApiClient, Cast
from tests.support.facts import change
from tests.support.routes import public_operations
from tests.support.tables import rows_of

CALLS = [
    (
        method,
        re.sub(r"<\w+:(\w+)_id>", lambda match: f"{match[1]}-{uuid7().hex}", path).replace("<path:name>", "m"),
        name,
    )
    for method, path, name in public_operations()
    if OPERATIONS[name].scope is not None
]
IDS = [f"{method} {name}" for method, _, name in CALLS]


def client_with(cast: Cast, scopes: frozenset[str]) -> ApiClient:
    """A key of Alice's with these scopes: of her project, or an admin key where they are an admin key's."""
    if scopes <= ADMIN_SCOPES:
        issued = create_admin_key(
            organization_id=cast.alice.organization.id, name="narrow", actor="system", scopes=scopes
        )  # fmt: skip
    else:
        issued = create_api_key(project=cast.alice.project, name="narrow", actor="system", scopes=scopes)
    return ApiClient(issued.token)


@pytest.mark.parametrize(("method", "path", "operation"), CALLS, ids=IDS)
def test_an_operation_takes_a_key_of_its_kind_with_its_scope(
    cast: Cast, method: str, path: str, operation: str
) -> None:
    kind, scope = OPERATIONS[operation].key_kind, OPERATIONS[operation].scope
    assert scope is not None
    client = client_with(cast, (ADMIN_SCOPES if kind == ADMIN else PROJECT_SCOPES) - {scope})
    before = rows_of(cast.alice.organization.id)
    answer = client.call(method, path, content_type="application/json")
    assert answer.status_code == 403
    assert answer.json()["error"] == {
        "message": f"The key lacks the scope '{scope}'",
        "type": "invalid_request_error",
        "param": None,
        "code": "insufficient_scope",
    }
    assert rows_of(cast.alice.organization.id) == before
    other = cast.alice.client if kind == ADMIN else cast.alice.admin
    wrong_kind = other.call(method, path, content_type="application/json")
    assert (wrong_kind.status_code, wrong_kind.json()["error"]["code"]) == (403, "wrong_key_type")
    assert f"'{kind}'" in wrong_kind.json()["error"]["message"]
    assert rows_of(cast.alice.organization.id) == before
    with_it = client_with(cast, frozenset({scope})).call(method, path, content_type="application/json")
    assert with_it.status_code in (200, 400, 404, 415)


def test_the_right_is_checked_before_the_body_is_read(cast: Cast) -> None:
    before = blobs()
    answer = client_with(cast, frozenset({"files.read"})).upload(b"{}\n")
    assert answer.json()["error"]["code"] == "insufficient_scope"
    assert cast.alice.client.get("/v1/files").json()["data"] == []
    assert blobs() == before


def test_every_role_has_its_scopes_and_no_other_scope_exists() -> None:
    assert ROLE_SCOPES.keys() == set(Role)
    assert frozenset().union(*ROLE_SCOPES.values()) == ALL_SCOPES == PROJECT_SCOPES | ADMIN_SCOPES


def test_roles_differ_as_their_names_say() -> None:
    assert ROLE_SCOPES[Role.OWNER] == ALL_SCOPES
    assert ROLE_SCOPES[Role.ADMIN] == ALL_SCOPES
    assert ROLE_SCOPES[Role.DEVELOPER] == PROJECT_SCOPES
    assert ROLE_SCOPES[Role.BILLING] == {"billing.read", "usage.read", "projects.read"}
    assert ROLE_SCOPES[Role.VIEWER] == {
        "files.read", "models.read", "weights.read", "batches.read", "fine_tuning.read", "webhooks.read", "keys.read",
        "members.read", "projects.read", "audit.read", "usage.read", "billing.read",
    }  # fmt: skip


def test_whoever_takes_part_in_a_project_works_there() -> None:
    assert dict.fromkeys(ProjectRole, PROJECT_SCOPES) == PROJECT_ROLE_SCOPES


@pytest.mark.parametrize("role", [Role.VIEWER, Role.BILLING])
def test_who_only_looks_changes_nothing(role: Role) -> None:
    assert {scope.rpartition(".")[2] for scope in ROLE_SCOPES[role]} == {"read"}


def test_admin_keys_of_before_the_scopes_were_split_keep_what_they_could(cast: Cast) -> None:
    for member, scopes in (
        (cast.alice, ["billing.read", "organization.read", "organization.write"]),
        (cast.charlie, ["organization.read"]),
    ):
        statement = "UPDATE tenants_apikey SET scopes = %s WHERE kind = 'admin' AND organization_id = %s"
        assert change(statement, scopes, member.organization.id) == 1
    convert = import_module("tenants.migrations.0011_admin_scopes").Migration.operations[0].sql
    assert [change(convert), change(convert)] == [2, 0]
    now = dict(ApiKey.all_tenants.filter(kind=ADMIN).values_list("organization_id", "scopes"))
    assert now[cast.alice.organization.id] == sorted(ADMIN_SCOPES)
    reading = {scope for scope in ADMIN_SCOPES if scope.endswith(".read")}
    assert now[cast.charlie.organization.id] == sorted(reading - {"billing.read"})
