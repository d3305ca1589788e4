"""Members come, change and go; the last owner stays."""

from typing import Any

import pytest

from tenants.models import ProjectMembership, Role
from tenants.permissions import ADMIN_SCOPES
from tenants.scope import tenant_scope
from tenants.services import create_admin_key, create_api_key
from tests.support.cast import ApiClient, Cast
from tests.support.facts import count
from tests.support.people import join, roles, user_id
from tests.support.tables import rows_of
from tests.support.threads import at_once

USERS = "/v1/organization/users"


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_the_last_owner_stays_an_owner(cast: Cast) -> None:
    alice = user_id(cast.alice, "alice@example.com")
    before = rows_of(cast.alice.organization.id)
    answers = [
        cast.alice.admin.post(f"{USERS}/{alice}", {"role": "admin"}),
        cast.alice.admin.delete(f"{USERS}/{alice}"),
    ]
    assert [error(answer) for answer in answers] == [(409, "conflict", "user_id")] * 2
    assert answers[0]["x-should-retry"] == "false"
    assert rows_of(cast.alice.organization.id) == before
    assert cast.alice.admin.post(f"{USERS}/{alice}", {"role": "owner"}).status_code == 200


@pytest.mark.parametrize("ways", [("demote", "demote"), ("demote", "remove"), ("remove", "remove")])
def test_two_last_owners_at_once_leave_one(cast: Cast, ways: tuple[str, str]) -> None:
    dora = join(cast.alice, "dora@example.com", Role.OWNER)
    # A key that no person owns: it outlives either of them.
    client = ApiClient(
        create_admin_key(organization_id=cast.alice.organization.id, name="operator", actor="system").token
    )

    def end(way: str, user: str) -> Any:
        if way == "demote":
            return client.post(f"{USERS}/{user}", {"role": "viewer"})
        return client.delete(f"{USERS}/{user}")

    alice = user_id(cast.alice, "alice@example.com")
    answers = at_once(lambda: end(ways[0], alice), lambda: end(ways[1], dora))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    users = client.get(USERS).json()["data"]
    assert [user["role"] for user in users].count("owner") == 1


def test_who_is_removed_takes_keys_and_projects_along(cast: Cast) -> None:
    bob = user_id(cast.alice, "bob@example.com")
    project = cast.alice.project
    cast.alice.admin.post(f"/v1/organization/projects/{project.wire_id}/users", {"user_id": bob, "role": "member"})
    with tenant_scope(cast.alice.organization.id):
        owner_id = ProjectMembership.objects.select_related("membership").get().membership.user_id
    token = create_api_key(project=project, name="Bob's", actor="system", created_by=owner_id).token
    assert ApiClient(token).get("/v1/files").status_code == 200
    assert cast.alice.admin.delete(f"{USERS}/{bob}").json() == {
        "id": bob, "object": "organization.user.deleted", "deleted": True,
    }  # fmt: skip
    assert error(ApiClient(token).get("/v1/files")) == (401, "invalid_api_key", None)
    assert count("tenants_projectmembership") == 0
    assert roles(cast.alice) == {"alice@example.com": "owner"}
    assert error(cast.alice.admin.delete(f"{USERS}/{bob}")) == (404, "not_found", "user_id")
    actions = [entry["type"] for entry in cast.alice.admin.get("/v1/organization/audit_logs?limit=2").json()["data"]]
    assert actions == ["user.deleted", "api_key.deleted"]


def test_nobody_gives_or_takes_more_than_he_holds(cast: Cast) -> None:
    narrow = frozenset({"members.read", "members.write", "projects.read"})
    issued = create_admin_key(organization_id=cast.alice.organization.id, name="narrow", actor="system", scopes=narrow)
    client = ApiClient(issued.token)
    bob, alice = (user_id(cast.alice, f"{name}@example.com") for name in ("bob", "alice"))
    missing = min(ADMIN_SCOPES - narrow)
    before = rows_of(cast.alice.organization.id)
    answers = [
        client.post(f"{USERS}/{bob}", {"role": "owner"}),
        client.post(f"{USERS}/{alice}", {"role": "developer"}),
        client.delete(f"{USERS}/{alice}"),
        client.post("/v1/organization/invites", {"email": "eve@example.com", "role": "owner"}),
    ]
    assert [error(answer) for answer in answers] == [(403, "insufficient_scope", "role")] * 4
    assert f"'{missing}'" in answers[0].json()["error"]["message"]
    assert rows_of(cast.alice.organization.id) == before
    assert client.delete(f"{USERS}/{bob}").status_code == 200


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"role": None}, {"role": "owner", "name": "x"}])
def test_a_change_that_makes_no_sense(cast: Cast, body: dict[str, Any]) -> None:
    bob = user_id(cast.alice, "bob@example.com")
    before = rows_of(cast.alice.organization.id)
    assert cast.alice.admin.post(f"{USERS}/{bob}", body).status_code == 400
    assert rows_of(cast.alice.organization.id) == before


def test_the_same_role_again_changes_nothing(cast: Cast) -> None:
    bob = user_id(cast.alice, "bob@example.com")
    before = rows_of(cast.alice.organization.id)
    assert cast.alice.admin.post(f"{USERS}/{bob}", {"role": "developer"}).status_code == 200
    assert rows_of(cast.alice.organization.id) == before


def test_a_project_takes_members_of_the_organisation_alone(cast: Cast) -> None:
    path = f"/v1/organization/projects/{cast.alice.project.wire_id}/users"
    charlie = user_id(cast.charlie, "charlie@example.com")
    before = rows_of(cast.alice.organization.id)
    answers = [
        cast.alice.admin.post(path, {"user_id": charlie, "role": "member"}),
        cast.alice.admin.post(path, {"email": "charlie@example.com", "role": "member"}),
        cast.alice.admin.post(path, {"email": "charlie@example.com", "user_id": charlie, "role": "member"}),
        cast.alice.admin.post(path, {"role": "member"}),
    ]
    assert [error(answer) for answer in answers] == [
        (404, "not_found", "user_id"), (404, "not_found", "email"),
        (400, "invalid_value", "user_id"), (400, "invalid_value", "user_id"),
    ]  # fmt: skip
    assert rows_of(cast.alice.organization.id) == before


def test_somebody_is_added_to_a_project_once(cast: Cast) -> None:
    path = f"/v1/organization/projects/{cast.alice.project.wire_id}/users"
    body = {"email": "bob@example.com", "role": "member"}
    answers = at_once(*[lambda: cast.alice.admin.post(path, body)] * 2)
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert count("tenants_projectmembership") == 1
    again = cast.alice.admin.post(path, body, headers={"x-stainless-retry-count": "1"})
    assert again.json() == next(answer.json() for answer in answers if answer.status_code == 200)


def test_adding_to_a_project_and_removal_at_once_leave_no_stray(cast: Cast) -> None:
    bob = user_id(cast.alice, "bob@example.com")
    path = f"/v1/organization/projects/{cast.alice.project.wire_id}/users"
    added, removed = at_once(
        lambda: cast.alice.admin.post(path, {"user_id": bob, "role": "member"}),
        lambda: cast.alice.admin.delete(f"{USERS}/{bob}"),
    )
    assert removed.status_code == 200
    assert added.status_code in (200, 404)
    assert count("tenants_projectmembership") == 0
