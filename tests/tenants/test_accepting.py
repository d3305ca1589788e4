"""Whoever was invited joins, over HTTP; what acceptance itself decides is tested in test_invites."""

from typing import Any

import pytest
from django.test import Client

from tenants.invites import invite_token
from tenants.models import Invite
from tests.support.cast import Cast
from tests.support.facts import count
from tests.support.sign_in import Person, let_throttles_pass, make_person

ROUTE = "/v1/invites/accept"


@pytest.fixture
def token(cast: Cast) -> str:
    """Alice invites Dora, who has no account yet."""
    projects = [{"id": cast.alice.project.wire_id, "role": "member"}]
    fields = {"email": "dora@example.com", "role": "developer", "projects": projects}
    answer = cast.alice.admin.post("/v1/organization/invites", fields)
    assert answer.status_code == 200, answer.content
    return invite_token(invite_id=Invite.all_tenants.get().id)


@pytest.fixture
def dora(token: str) -> Person:
    let_throttles_pass()
    return make_person("Dora")


def accept(person: Person, token: Any) -> Any:
    return person.call("POST", ROUTE, {"token": token})


def test_who_was_invited_signs_up_accepts_and_works(cast: Cast, token: str, dora: Person) -> None:
    where = {"OpenAI-Organization": cast.alice.organization.wire_id, "OpenAI-Project": cast.alice.project.wire_id}
    assert dora.call("GET", "/v1/files", headers=where).status_code == 404
    answer = accept(dora, token)
    assert answer.json() | {"created_at": 0} == {
        "object": "organization.membership", "organization_id": cast.alice.organization.wire_id, "role": "developer",
        "created_at": 0,
    }  # fmt: skip
    assert accept(dora, token).json() == answer.json()
    assert dora.call("GET", "/v1/files", headers=where).status_code == 200
    assert [entry["role"] for entry in dora.call("GET", "/v1/organizations").json()["data"]] == ["developer"]


def test_somebody_else_is_told_nothing(cast: Cast, token: str) -> None:
    let_throttles_pass()
    eve = make_person("Eve")
    before = count("tenants_membership")
    answers = [accept(eve, offered) for offered in (token, f"{token[:-1]}x", "nothing")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert token not in answers[0].content.decode()
    assert count("tenants_membership") == before


@pytest.mark.parametrize("fields", [{}, {"token": ""}, {"token": "x" * 201}, {"token": []}])
def test_bad_input_is_named(dora: Person, fields: dict[str, Any]) -> None:
    answer = dora.call("POST", ROUTE, fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "token")


def test_only_who_is_signed_in(cast: Cast, token: str) -> None:
    before = count("tenants_membership")
    for headers in ({}, {"Authorization": f"Bearer {cast.alice.admin_token}"}):
        answer = Client().post(ROUTE, {"token": token}, content_type="application/json", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_session")
    assert count("tenants_membership") == before
