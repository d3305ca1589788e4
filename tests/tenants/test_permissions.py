"""What roles grant; who may call what is in test_permission_matrix."""

from importlib import import_module

import pytest

from tenants.models import ApiKey, ProjectRole, Role
from tenants.permissions import (
    ADMIN,
    ADMIN_SCOPES,
    ALL_SCOPES,
    PROJECT_ROLE_SCOPES,
    PROJECT_SCOPES,
    ROLE_SCOPES,
    SEEING_ALL_PROJECTS,
)
from tenants.services import create_api_key
from tests.support.blobs import blobs
from tests.support.cast import ApiClient, Cast
from tests.support.facts import change


def test_the_right_is_checked_before_the_body_is_read(cast: Cast) -> None:
    before = blobs()
    narrow = create_api_key(project=cast.alice.project, name="k", actor="system", scopes=frozenset({"files.read"}))
    answer = ApiClient(narrow.token).upload(b"{}\n")
    assert answer.json()["error"]["code"] == "insufficient_scope"
    assert cast.alice.client.get("/v1/files").json()["data"] == []
    assert blobs() == before


def test_every_role_has_its_scopes_and_no_other_scope_exists() -> None:
    assert ROLE_SCOPES.keys() == set(Role)
    assert frozenset().union(*ROLE_SCOPES.values()) == ALL_SCOPES == PROJECT_SCOPES | ADMIN_SCOPES


def test_roles_differ_as_their_names_say() -> None:
    assert ROLE_SCOPES[Role.OWNER] == ALL_SCOPES
    assert ROLE_SCOPES[Role.ADMIN] == ALL_SCOPES
    assert ROLE_SCOPES[Role.DEVELOPER] == PROJECT_SCOPES | {"projects.read"}
    assert ROLE_SCOPES[Role.BILLING] == {"billing.read", "usage.read", "projects.read"}
    assert ROLE_SCOPES[Role.VIEWER] == {
        "files.read", "models.read", "weights.read", "batches.read", "fine_tuning.read", "webhooks.read", "keys.read",
        "members.read", "projects.read", "audit.read", "usage.read", "billing.read",
    }  # fmt: skip


def test_whoever_can_found_a_project_sees_all_of_them() -> None:
    assert {role for role in Role if "projects.write" in ROLE_SCOPES[role]} <= SEEING_ALL_PROJECTS
    assert {Role.OWNER, Role.ADMIN, Role.BILLING} == SEEING_ALL_PROJECTS


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
