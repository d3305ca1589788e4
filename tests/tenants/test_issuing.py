"""Keys through the API: what they may do, when they end, and that a repeated create makes no second one."""

from functools import partial
from typing import Any

import pytest

from tenants.permissions import ADMIN_SCOPES
from tenants.services import create_admin_key
from tests.support.cast import MODEL, ApiClient, Cast, Member
from tests.support.facts import change, count
from tests.support.tables import rows_of
from tests.support.threads import at_once

ADMIN_KEYS = "/v1/organization/admin_api_keys"
RETRY = {"x-stainless-retry-count": "1"}


def keys_path(member: Member) -> str:
    return f"/v1/organization/projects/{member.project.wire_id}/api_keys"


def accounts_path(member: Member) -> str:
    return f"/v1/organization/projects/{member.project.wire_id}/service_accounts"


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_a_project_key_with_less_than_everything(cast: Cast) -> None:
    answer = cast.alice.admin.post(
        keys_path(cast.alice),
        {"name": "Reader", "scopes": ["models.read"], "allowed_models": [MODEL], "expires_in_seconds": 60},
    )
    made = answer.json()
    assert (made["scopes"], made["allowed_models"]) == (["models.read"], [MODEL])
    assert 59 <= made["expires_at"] - made["created_at"] <= 61
    client = ApiClient(made["value"])
    assert client.get("/v1/models").status_code == 200
    assert error(client.get("/v1/files"))[:2] == (403, "insufficient_scope")
    shown = cast.alice.admin.get(f"{keys_path(cast.alice)}/{made['id']}").json()
    assert shown == {name: value for name, value in made.items() if name != "value"} | {
        "last_used_at": shown["last_used_at"]
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "name"), ({"name": ""}, "name"), ({"name": "a\nb"}, "name"), ({"name": "x" * 201}, "name"),
        ({"name": "x", "scopes": ["keys.read"]}, "scopes"), ({"name": "x", "scopes": "files.read"}, "scopes"),
        ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"name": "x", "expires_in_seconds": 10**12}, "expires_in_seconds"),
        ({"name": "x", "expires_in_seconds": 10**18}, "expires_in_seconds"),
        ({"name": "x", "expires_in_seconds": True}, "expires_in_seconds"),
        ({"name": "x", "role": "owner"}, "role"),
    ],
)  # fmt: skip
def test_a_key_that_makes_no_sense(cast: Cast, fields: dict[str, Any], param: str) -> None:
    before = rows_of(cast.alice.organization.id)
    answer = cast.alice.admin.post(keys_path(cast.alice), fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert rows_of(cast.alice.organization.id) == before


def test_an_admin_key_gives_no_more_than_it_has(cast: Cast) -> None:
    narrow = frozenset({"keys.read", "keys.write"})
    issued = create_admin_key(organization_id=cast.alice.organization.id, name="k", actor="system", scopes=narrow)
    client = ApiClient(issued.token)
    assert client.post(ADMIN_KEYS, {"name": "same"}).json()["scopes"] == sorted(narrow)
    assert client.post(ADMIN_KEYS, {"name": "less", "scopes": ["keys.read"]}).json()["scopes"] == ["keys.read"]
    before = rows_of(cast.alice.organization.id)
    answer = client.post(ADMIN_KEYS, {"name": "more", "scopes": ["keys.read", "audit.read"]})
    assert error(answer) == (403, "insufficient_scope", "scopes")
    assert "'audit.read'" in answer.json()["error"]["message"]
    assert rows_of(cast.alice.organization.id) == before
    assert cast.alice.admin.post(ADMIN_KEYS, {"name": "all"}).json()["scopes"] == sorted(ADMIN_SCOPES)


def test_a_retry_gets_the_same_key_with_a_value_that_works(cast: Cast) -> None:
    for path in (ADMIN_KEYS, keys_path(cast.alice)):
        made = cast.alice.admin.post(path, {"name": "Robot"}).json()
        before = count("tenants_apikey")
        again = cast.alice.admin.post(path, {"name": "Robot"}, headers=RETRY).json()
        assert (again["id"], count("tenants_apikey")) == (made["id"], before)
        route = "/v1/models" if path != ADMIN_KEYS else ADMIN_KEYS
        assert [ApiClient(key["value"]).get(route).status_code for key in (made, again)] == [401, 200]
        used = cast.alice.admin.post(path, {"name": "Robot"}, headers=RETRY)
        assert error(used) == (409, "conflict", None)
        assert ApiClient(again["value"]).get(route).status_code == 200


def test_a_key_sent_twice_on_purpose_keeps_its_first_value(cast: Cast) -> None:
    named = {"Idempotency-Key": "k"}
    made = cast.alice.admin.post(keys_path(cast.alice), {"name": "Robot"}, headers=named).json()
    before = rows_of(cast.alice.organization.id)
    again = cast.alice.admin.post(keys_path(cast.alice), {"name": "Robot"}, headers=named)
    assert error(again) == (409, "conflict", None)
    assert made["id"] in again.json()["error"]["message"]
    assert rows_of(cast.alice.organization.id) == before
    assert ApiClient(made["value"]).get("/v1/models").status_code == 200


def test_a_service_account_is_made_once(cast: Cast) -> None:
    made = cast.alice.admin.post(accounts_path(cast.alice), {"name": "CI"}).json()
    before = count("tenants_apikey"), count("tenants_serviceaccount")
    again = cast.alice.admin.post(accounts_path(cast.alice), {"name": "CI"}, headers=RETRY).json()
    assert (count("tenants_apikey"), count("tenants_serviceaccount")) == before
    assert (again["id"], again["api_key"]["id"]) == (made["id"], made["api_key"]["id"])
    assert ApiClient(again["api_key"]["value"]).get("/v1/models").status_code == 200


def test_a_service_account_without_a_key_has_nothing_that_expires(cast: Cast) -> None:
    fields = {"name": "CI", "create_service_account_only": True, "expires_in_seconds": 60}
    before = rows_of(cast.alice.organization.id)
    assert error(cast.alice.admin.post(accounts_path(cast.alice), fields)) == (
        400, "invalid_value", "expires_in_seconds",
    )  # fmt: skip
    assert rows_of(cast.alice.organization.id) == before


def test_a_key_is_deleted_once(cast: Cast) -> None:
    for path in (ADMIN_KEYS, keys_path(cast.alice)):
        made = cast.alice.admin.post(path, {"name": "x"}).json()
        target = f"{path}/{made['id']}"
        answers = at_once(*[partial(cast.alice.admin.delete, target)] * 2)
        assert sorted(answer.status_code for answer in answers) == [200, 404]
    events = cast.alice.admin.get("/v1/organization/audit_logs?event_types[]=api_key.deleted").json()["data"]
    assert len(events) == 2


def test_a_service_account_and_its_new_key_at_once(cast: Cast) -> None:
    made = cast.alice.admin.post(accounts_path(cast.alice), {"name": "CI"}).json()
    path = f"{accounts_path(cast.alice)}/{made['id']}"
    issued, deleted = at_once(
        lambda: cast.alice.admin.post(f"{path}/api_keys", {}), lambda: cast.alice.admin.delete(path)
    )
    assert deleted.status_code == 200
    assert issued.status_code in (200, 404)
    values = [made["api_key"]["value"], *([issued.json()["value"]] if issued.status_code == 200 else [])]
    assert {ApiClient(value).get("/v1/models").status_code for value in values} == {401}


def test_an_object_of_another_project_is_not_found(cast: Cast) -> None:
    other = cast.alice.admin.post("/v1/organization/projects", {"name": "Other"}).json()["id"]
    account = cast.alice.admin.post(accounts_path(cast.alice), {"name": "CI"}).json()
    key = cast.alice.admin.post(keys_path(cast.alice), {"name": "x"}).json()
    before = rows_of(cast.alice.organization.id)
    for kind, wire_id in (("service_accounts", account["id"]), ("api_keys", key["id"])):
        path = f"/v1/organization/projects/{other}/{kind}/{wire_id}"
        answers = [cast.alice.admin.get(path), cast.alice.admin.post(path, {}), cast.alice.admin.delete(path)]
        assert [answer.status_code for answer in answers] == [404] * 3
    assert rows_of(cast.alice.organization.id) == before


def test_an_update_changes_what_it_names(cast: Cast) -> None:
    made = cast.alice.admin.post(keys_path(cast.alice), {"name": "x", "expires_in_seconds": 60}).json()
    path = f"{keys_path(cast.alice)}/{made['id']}"
    changed = cast.alice.admin.post(path, {"name": "y", "allowed_models": [MODEL], "expires_in_seconds": None}).json()
    assert (changed["name"], changed["allowed_models"], changed["expires_at"]) == ("y", [MODEL], None)
    assert changed["scopes"] == made["scopes"]
    assert cast.alice.admin.post(path, {"allowed_models": None}).json()["allowed_models"] is None
    before = rows_of(cast.alice.organization.id)
    assert error(cast.alice.admin.post(path, {"scopes": ["audit.read"]})) == (400, "invalid_value", "scopes")
    assert cast.alice.admin.post(path, {}).status_code == 200
    assert rows_of(cast.alice.organization.id) == before


def test_an_expired_key_stays_expired(cast: Cast) -> None:
    made = cast.alice.admin.post(keys_path(cast.alice), {"name": "x"}).json()
    assert change("UPDATE tenants_apikey SET expires_at = now() WHERE name = 'x'") == 1
    path = f"{keys_path(cast.alice)}/{made['id']}"
    before = rows_of(cast.alice.organization.id)
    assert error(cast.alice.admin.post(path, {"expires_in_seconds": 60})) == (409, "conflict", "api_key_id")
    assert rows_of(cast.alice.organization.id) == before
    assert cast.alice.admin.delete(path).status_code == 200


def test_an_archived_project_gets_nothing_new_and_its_keys_open_nothing(cast: Cast) -> None:
    project = f"/v1/organization/projects/{cast.alice.project.wire_id}"
    assert cast.alice.admin.post(f"{project}/archive").status_code == 200
    assert error(cast.alice.client.get("/v1/files"))[:2] == (403, "organization_inactive")
    before = rows_of(cast.alice.organization.id)
    answers = [
        cast.alice.admin.post(project, {"name": "x"}),
        cast.alice.admin.post(f"{project}/api_keys", {"name": "x"}),
        cast.alice.admin.post(f"{project}/service_accounts", {"name": "x"}),
        cast.alice.admin.post(f"{project}/users", {"email": "bob@example.com", "role": "member"}),
        cast.alice.admin.post(f"{project}/model_permissions", {"mode": "deny_list", "model_ids": []}),
        cast.alice.admin.post(f"{project}/rate_limits/rl-{MODEL}", {}),
    ]
    assert [error(answer) for answer in answers] == [(409, "conflict", "project_id")] * 6
    assert rows_of(cast.alice.organization.id) == before
    assert cast.alice.admin.get(f"{project}/api_keys").status_code == 200


def test_archiving_and_a_new_key_at_once(cast: Cast) -> None:
    project = f"/v1/organization/projects/{cast.alice.project.wire_id}"
    archived, issued = at_once(
        lambda: cast.alice.admin.post(f"{project}/archive"),
        lambda: cast.alice.admin.post(f"{project}/api_keys", {"name": "x"}),
    )
    assert archived.status_code == 200
    assert issued.status_code in (200, 409)
    assert issued.status_code == 409 or ApiClient(issued.json()["value"]).get("/v1/models").status_code == 403


def test_keys_are_told_apart_by_whether_their_owner_is_still_there(cast: Cast) -> None:
    path = keys_path(cast.alice)
    # As it would be where somebody has left by another way than the API.
    assert change("DELETE FROM tenants_membership WHERE role = 'owner' AND organization_id = %s",
                  cast.alice.organization.id) == 1  # fmt: skip
    robot = cast.alice.admin.post(accounts_path(cast.alice), {"name": "CI"}).json()["api_key"]["id"]

    def listed(access: str) -> list[str]:
        data = cast.alice.admin.get(f"{path}?owner_project_access={access}").json()["data"]
        return [f"{key['name']} {key['owner_project_access']}" for key in data]

    assert listed("active") == ["Secret Key active"]
    assert listed("inactive") == ["First key inactive"]
    assert listed("any") == ["Secret Key active", "First key inactive"]
    assert cast.alice.admin.get(f"{path}/{robot}").json()["owner"]["type"] == "service_account"
    assert error(cast.alice.admin.get(f"{path}?owner_project_access=x")) == (
        400, "invalid_value", "owner_project_access",
    )  # fmt: skip


def test_who_has_been_removed_makes_no_keys(cast: Cast) -> None:
    # As if the removal had come between the check of the key and the create.
    assert change("DELETE FROM tenants_membership WHERE role = 'owner' AND organization_id = %s",
                  cast.alice.organization.id) == 1  # fmt: skip
    before = rows_of(cast.alice.organization.id)
    for path in (ADMIN_KEYS, keys_path(cast.alice)):
        assert error(cast.alice.admin.post(path, {"name": "x"})) == (401, "invalid_api_key", None)
    assert rows_of(cast.alice.organization.id) == before
