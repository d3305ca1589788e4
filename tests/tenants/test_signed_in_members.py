"""Signed-in members: who they are and where, decided anew with every request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from tenants.models import (
    ApiKey,
    AuditEvent,
    Membership,
    Organization,
    Project,
    ProjectMembership,
    ProjectRole,
    Role,
)
from tenants.permissions import ADMIN_SCOPES
from tenants.scope import tenant_scope
from tenants.services import set_organization_status
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.model import add_model
from tests.support.rows import line
from tests.support.sign_in import Person, let_throttles_pass, make_person
from tests.support.threads import at_once


@dataclass(frozen=True)
class SignedIn:
    """A person at work in an organisation, and in one of its projects."""

    person: Person
    organization: Organization
    project: Project

    def call(self, method: str, path: str, fields: Any = None, **headers: str) -> Any:
        """A request with the session token."""
        named = {"OpenAI-Organization": self.organization.wire_id, "OpenAI-Project": self.project.wire_id}
        return self.person.call(method, path, fields, headers={**named, **headers})


def join(person: Person, member: Member, role: Role) -> SignedIn:
    """Make somebody a member of an organisation and of its project."""
    user = User.objects.get(email=person.email)
    organization, project = member.organization, member.project
    with tenant_scope(organization.id):
        membership = Membership.objects.create(organization=organization, user=user, role=role)
        ProjectMembership.objects.create(
            organization=organization, project=project, membership=membership, role=ProjectRole.MEMBER
        )
    return SignedIn(person, organization, project)


@pytest.fixture
def dora(cast: Cast) -> SignedIn:
    """A developer in Alice's organisation."""
    let_throttles_pass()
    return join(make_person("Dora"), cast.alice, Role.DEVELOPER)


def refusal(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize("name", ["nobody", "org_", "proj_", "\0", "org_" + "g" * 32])
def test_an_organisation_that_is_none(dora: SignedIn, name: str) -> None:
    answer = dora.call("GET", "/v1/files", **{"OpenAI-Organization": name})
    assert refusal(answer) == (404, "not_found", "OpenAI-Organization")


def test_a_project_of_another_organisation_is_not_found(dora: SignedIn, cast: Cast) -> None:
    for project in (cast.charlie.project.wire_id, f"proj_{'0' * 32}", "nobody"):
        answer = dora.call("GET", "/v1/files", **{"OpenAI-Project": project})
        assert refusal(answer) == (404, "not_found", "OpenAI-Project")


def test_the_headers_say_where_one_works(dora: SignedIn) -> None:
    organization = {"OpenAI-Organization": dora.organization.wire_id}
    answer = dora.person.call("GET", "/v1/files")
    assert refusal(answer) == (400, "missing_required_parameter", "OpenAI-Organization")
    answer = dora.person.call("GET", "/v1/files", headers=organization)
    assert refusal(answer) == (400, "missing_required_parameter", "OpenAI-Project")
    change("UPDATE tenants_membership SET role = 'billing'")
    assert dora.person.call("GET", "/v1/organization/balance", headers=organization).status_code == 200


def test_a_key_and_a_session_at_once_are_refused(dora: SignedIn, cast: Cast) -> None:
    answer = dora.call("GET", "/v1/files", Authorization=f"Bearer {cast.alice.token}")
    assert refusal(answer) == (400, "invalid_request", None)


@pytest.mark.parametrize("token", ["", "x", "hone_st_", f"hone_st_{'a' * 32}_{'0' * 64}", "\0"])
def test_a_token_of_nobody(database: None, token: str) -> None:
    answer = Client().get("/v1/files", headers={"X-Session-Token": token, "OpenAI-Organization": "org_1"})
    assert refusal(answer) == (401, "invalid_session", None)


def test_a_key_is_no_session_token(cast: Cast) -> None:
    answer = Client().get("/v1/files", headers={"X-Session-Token": cast.alice.token})
    assert refusal(answer) == (401, "invalid_session", None)
    assert cast.alice.token not in answer.content.decode()


def test_a_session_token_is_no_key(dora: SignedIn) -> None:
    answer = Client().get("/v1/files", headers={"Authorization": f"Bearer {dora.person.token}"})
    assert refusal(answer) == (401, "invalid_api_key", None)


def test_a_sign_in_that_waits_for_a_code_opens_nothing(cast: Cast) -> None:
    let_throttles_pass()
    person = Person("dora@example.com")
    person.sign_up()
    half = join(person, cast.alice, Role.OWNER)
    assert refusal(half.call("GET", "/v1/files")) == (401, "invalid_session", None)


def test_another_role_and_a_removal_count_at_once(dora: SignedIn) -> None:
    assert dora.call("GET", "/v1/files").status_code == 200
    assert refusal(dora.call("GET", "/v1/organization/balance"))[:2] == (403, "insufficient_scope")
    change("UPDATE tenants_membership SET role = 'viewer' WHERE role = 'developer'")
    assert dora.call("GET", "/v1/organization/balance").status_code == 200
    change("DELETE FROM tenants_projectmembership")
    assert refusal(dora.call("GET", "/v1/files")) == (404, "not_found", "OpenAI-Project")
    change("DELETE FROM tenants_membership WHERE role = 'viewer'")
    assert refusal(dora.call("GET", "/v1/files")) == (404, "not_found", "OpenAI-Organization")


def test_a_changed_password_and_an_ended_session_count_at_once(dora: SignedIn) -> None:
    elsewhere = Person(dora.person.email)
    elsewhere.sign_in()
    elsewhere.auth(
        "POST", "account/password/change", current_password=elsewhere.password, new_password="staple battery horse"
    )
    assert refusal(dora.call("GET", "/v1/files"))[:2] == (401, "invalid_session")


def test_a_suspended_organisation_and_an_archived_project(dora: SignedIn) -> None:
    organization = dora.organization
    set_organization_status(organization=organization, status=Organization.Status.SUSPENDED, actor="system")
    assert refusal(dora.call("GET", "/v1/files"))[:2] == (403, "organization_inactive")
    set_organization_status(organization=organization, status=Organization.Status.ACTIVE, actor="system")
    assert dora.call("GET", "/v1/files").status_code == 200
    change("UPDATE tenants_project SET status = 'archived'")
    assert refusal(dora.call("GET", "/v1/files"))[:2] == (403, "organization_inactive")


def test_an_owner_makes_an_admin_key_that_may_do_all_that_admin_keys_may(dora: SignedIn) -> None:
    change("UPDATE tenants_membership SET role = 'owner' WHERE role = 'developer'")
    made = dora.call("POST", "/v1/organization/admin_api_keys", {"name": "all"}).json()
    assert made["scopes"] == sorted(ADMIN_SCOPES)


def test_what_a_member_does_is_booked_under_a_key_that_opens_nothing(dora: SignedIn, tmp_path: Path) -> None:
    add_model(tmp_path / "model")
    requests = [{"body": line(1)["body"]}]
    fields = {"requests": requests, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = dora.call("POST", "/v1/batches", fields).json()
    again = dora.call("POST", "/v1/batches", fields, **{"x-stainless-retry-count": "1"}).json()
    assert again["id"] == batch["id"]
    with tenant_scope(dora.organization.id):
        key = ApiKey.objects.get(kind=ApiKey.Kind.SESSION)
        actors = set(AuditEvent.objects.filter(subject=batch["id"]).values_list("actor", flat=True))
    user = User.objects.get(email=dora.person.email)
    assert (key.created_by_id, key.project_id, bytes(key.digest), key.scopes) == (user.id, dora.project.id, b"", [])
    assert actors == {user.wire_id}
    for prefix in ("hone_sk_", "hone_ak_"):
        answer = Client().get("/v1/files", headers={"Authorization": f"Bearer {prefix}{key.public_id}_{'0' * 64}"})
        assert refusal(answer)[:2] == (401, "invalid_api_key")


def test_the_key_of_a_members_sessions_is_made_once(dora: SignedIn) -> None:
    def look() -> Any:
        return dora.call("GET", "/v1/models").status_code

    assert at_once(*[look] * 4) == [200] * 4
    assert ApiKey.all_tenants.filter(kind=ApiKey.Kind.SESSION).count() == 1


def test_the_actor_of_a_member_is_the_person(dora: SignedIn) -> None:
    fields = {"name": "mine", "url": "https://example.com/hook", "event_types": ["batch.completed"]}
    made = dora.call("POST", "/v1/webhook_endpoints", fields)
    assert made.status_code == 200, made.content
    with tenant_scope(dora.organization.id):
        event = AuditEvent.objects.get(subject=made.json()["id"])
    assert event.actor == User.objects.get(email=dora.person.email).wire_id
