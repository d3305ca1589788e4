"""Somebody who has signed up founds an organisation."""

from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from accounts.models import User
from common.money import NANOS_PER_USD
from tenants.models import ApiKey, AuditEvent, Membership, Organization, Role
from tenants.scope import tenant_scope
from tenants.services import set_organization_status
from tests.support.cast import ApiClient, Cast
from tests.support.facts import change, count, query_owner
from tests.support.sign_in import Person, let_throttles_pass, make_person
from tests.support.threads import at_once

ROUTE = "/v1/organizations"


@pytest.fixture
def ada(database: None, settings: Settings) -> Person:
    settings.SIGNUP_CREDIT_NANOS = 5 * NANOS_PER_USD
    let_throttles_pass()
    return make_person("Ada")


def found(person: Person, name: str = "Analytical Engines", **headers: str) -> Any:
    return person.call("POST", ROUTE, {"name": name}, headers=headers)


def made() -> tuple[int, ...]:
    return tuple(count(f"tenants_{table}") for table in ("organization", "project", "membership", "apikey"))


def opening_credits() -> list[int]:
    return [amount for (amount,) in query_owner("SELECT amount_nanos FROM billing_posting ORDER BY id")]


def test_an_organisation_with_project_keys_and_opening_credit(ada: Person) -> None:
    answer = found(ada)
    assert answer.status_code == 200
    body = answer.json()
    assert body | {"created_at": 0} == {
        "id": body["id"], "object": "organization", "created_at": 0, "name": "Analytical Engines", "status": "active",
        "role": "owner", "project_id": body["project_id"], "api_key": body["api_key"], "admin_key": body["admin_key"],
    }  # fmt: skip
    assert (
        ApiClient(body["api_key"]).get("/v1/models", headers={"OpenAI-Project": body["project_id"]}).status_code == 200
    )
    balance = ApiClient(body["admin_key"]).get("/v1/organization/balance").json()
    assert balance["available_nanos"] == 5 * NANOS_PER_USD
    mine = ada.call("GET", "/v1/organization/balance", headers={"OpenAI-Organization": body["id"]})
    assert mine.json() == balance
    user = User.objects.get()
    assert [(member.user_id, member.role) for member in Membership.all_tenants.all()] == [(user.id, Role.OWNER)]
    actors = AuditEvent.all_tenants.exclude(action="credit.granted").values_list("actor", flat=True)
    assert set(actors) == {user.wire_id}


def test_the_opening_credit_is_given_once_to_each_person(ada: Person) -> None:
    first = found(ada).json()
    second = found(ada, "Another").json()
    assert (opening_credits(), first["id"] != second["id"]) == ([5 * NANOS_PER_USD], True)
    change("DELETE FROM tenants_membership")
    assert found(ada, "Third").status_code == 200
    assert opening_credits() == [5 * NANOS_PER_USD]


def test_without_the_setting_nobody_is_given_credit(ada: Person, settings: Settings) -> None:
    settings.SIGNUP_CREDIT_NANOS = 0
    assert found(ada).status_code == 200
    assert opening_credits() == []
    settings.SIGNUP_CREDIT_NANOS = 1
    assert found(ada, "Another").status_code == 200
    assert opening_credits() == [1]


def test_a_repetition_gets_the_same_organisation_without_the_keys(ada: Person) -> None:
    body = found(ada).json()
    before = made()
    again = found(ada, **{"x-stainless-retry-count": "1"}).json()
    assert again == {name: body[name] for name in ("id", "object", "created_at", "name", "status", "role")}
    assert made() == before
    assert found(ada).json()["id"] != body["id"]


def test_a_key_stands_for_one_organisation(ada: Person) -> None:
    body = found(ada, **{"Idempotency-Key": "k"}).json()
    assert found(ada, **{"Idempotency-Key": "k"}).json()["id"] == body["id"]
    before = made()
    refused = found(ada, "Another", **{"Idempotency-Key": "k"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "idempotency_key_reused")
    assert made() == before
    let_throttles_pass()
    other = make_person("Charlie")
    assert found(other, **{"Idempotency-Key": "k"}).json()["id"] != body["id"]


def test_tries_at_the_same_moment_make_one_organisation_and_give_credit_once(ada: Person) -> None:
    answers = at_once(*[lambda: found(ada, **{"Idempotency-Key": "k"})] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [bool(answer.json().get("api_key")) for answer in answers].count(True) == 1
    different = at_once(*[lambda: found(ada)] * 3)
    assert len({answer.json()["id"] for answer in different}) == 3
    assert opening_credits() == [5 * NANOS_PER_USD]


def test_one_person_owns_a_limited_number(ada: Person, settings: Settings) -> None:
    settings.ORGANIZATIONS_PER_OWNER = 2
    for _ in range(2):
        assert found(ada).status_code == 200
    before = made()
    refused = found(ada)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert made() == before


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "name"), ({"name": ""}, "invalid_value", "name"),
        ({"name": "x" * 201}, "invalid_value", "name"), ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": "a\0b"}, "invalid_value", "name"), ({"name": []}, "invalid_value", "name"),
        ({"name": "a", "credit": 5}, "unknown_parameter", "credit"),
    ],
)  # fmt: skip
def test_bad_input_is_named(ada: Person, fields: dict[str, Any], code: str, param: str) -> None:
    answer = ada.call("POST", ROUTE, fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert made() == (0, 0, 0, 0)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_who_is_signed_in(cast: Cast, method: str) -> None:
    before = made()
    for headers in ({}, {"Authorization": f"Bearer {cast.alice.admin_token}"}, {"X-Session-Token": "nobody"}):
        answer = Client().generic(method, ROUTE, b'{"name": "x"}', content_type="application/json", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_session")
    assert made() == before


def test_the_list_holds_what_one_is_a_member_of(ada: Person, cast: Cast) -> None:
    mine = [found(ada, name).json() for name in ("One", "Two")]
    user = User.objects.get(email=ada.email)
    with tenant_scope(cast.alice.organization.id):
        Membership.objects.create(organization=cast.alice.organization, user=user, role=Role.VIEWER)
    listed = ada.call("GET", ROUTE).json()
    assert {entry["id"]: entry["role"] for entry in listed["data"]} == {
        **{body["id"]: "owner" for body in mine}, cast.alice.organization.wire_id: "viewer",
    }  # fmt: skip
    ids = [entry["id"] for entry in listed["data"]]
    assert ids == sorted(ids, reverse=True)
    page = ada.call("GET", f"{ROUTE}?limit=1&after={ids[0]}").json()
    assert ([entry["id"] for entry in page["data"]], page["has_more"]) == ([ids[1]], True)
    set_organization_status(
        organization=cast.charlie.organization, status=Organization.Status.SUSPENDED, actor="system"
    )  # fmt: skip
    change("UPDATE tenants_organization SET status = 'deleted' WHERE name = 'Two'")
    assert len(ada.call("GET", ROUTE).json()["data"]) == 2


def test_a_stranger_lists_nothing(ada: Person) -> None:
    found(ada)
    let_throttles_pass()
    assert make_person("Charlie").call("GET", ROUTE).json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    assert ApiKey.all_tenants.filter(kind=ApiKey.Kind.SESSION).count() == 1
