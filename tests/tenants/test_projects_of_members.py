"""Where signed-in members work: in the projects that they belong to; owners and admins in all of them."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from accounts.models import User
from tenants.models import ApiKey, Membership, Project, ProjectMembership, Role
from tenants.permissions import ADMIN_SCOPES
from tenants.scope import tenant_scope
from tests.support.adapters import publish
from tests.support.cast import Cast, Member
from tests.support.facts import change
from tests.support.model import add_model
from tests.support.people import join, user_id
from tests.support.sign_in import Person, let_throttles_pass, make_person
from tests.support.tables import rows_of

PROJECTS = "/v1/organization/projects"


@dataclass(frozen=True)
class Colleague:
    """A member of Alice's organisation, signed in."""

    person: Person
    member: Member

    def call(self, method: str, path: str, fields: Any = None, *, project: str | None = None) -> Any:
        """A request about her organisation, and about a project of it."""
        headers = {"OpenAI-Organization": self.member.organization.wire_id}
        return self.person.call(
            method, path, fields, headers=headers | ({"OpenAI-Project": project} if project else {})
        )

    def projects(self) -> list[str]:
        """Those that he or she sees."""
        return [project["id"] for project in self.call("GET", PROJECTS).json()["data"]]


@pytest.fixture
def support(cast: Cast) -> str:
    """A second project of Alice's."""
    return str(cast.alice.admin.post(PROJECTS, {"name": "Support"}).json()["id"])


def colleague(cast: Cast, name: str, role: Role) -> Colleague:
    """Somebody who belongs to no project yet."""
    let_throttles_pass()
    person = make_person(name)
    join(cast.alice, person.email, role)
    return Colleague(person, cast.alice)


def add(cast: Cast, who: Colleague, project: str, role: str = "member") -> None:
    fields = {"user_id": user_id(cast.alice, who.person.email), "role": role}
    answer = cast.alice.admin.post(f"{PROJECTS}/{project}/users", fields)
    assert answer.status_code == 200, answer.content


def upload(who: Colleague, project: str) -> Any:
    fields = {"bytes": 3, "filename": "a.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    return who.call("POST", "/v1/uploads", fields, project=project)


def hidden(answer: Any) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
def test_one_sees_the_projects_that_one_belongs_to(cast: Cast, support: str, role: Role) -> None:
    dora = colleague(cast, "Dora", role)
    assert dora.projects() == []
    assert hidden(dora.call("GET", f"{PROJECTS}/{support}")) == (404, "not_found", "project_id")
    add(cast, dora, support)
    assert dora.projects() == [support]
    assert dora.call("GET", f"{PROJECTS}/{support}").json()["name"] == "Support"
    default = cast.alice.project.wire_id
    assert hidden(dora.call("GET", f"{PROJECTS}/{default}")) == (404, "not_found", "project_id")


@pytest.mark.parametrize(("role", "refusal"), [(Role.DEVELOPER, 404), (Role.VIEWER, 404), (Role.BILLING, 403)])
def test_who_belongs_to_a_project_works_there_and_nowhere_else(
    cast: Cast, support: str, role: Role, refusal: int
) -> None:
    dora = colleague(cast, "Dora", role)
    add(cast, dora, support)
    assert upload(dora, support).json()["status"] == "pending"
    before = rows_of(cast.alice.organization.id)
    assert upload(dora, cast.alice.project.wire_id).status_code == refusal
    assert rows_of(cast.alice.organization.id) == before


def test_being_added_and_removed_counts_from_the_next_request_on(cast: Cast, support: str) -> None:
    dora = colleague(cast, "Dora", Role.DEVELOPER)
    assert hidden(dora.call("GET", "/v1/files", project=support)) == (404, "not_found", "OpenAI-Project")
    add(cast, dora, support)
    assert dora.call("GET", "/v1/files", project=support).status_code == 200
    path = f"{PROJECTS}/{support}/users/{user_id(cast.alice, dora.person.email)}"
    assert cast.alice.admin.delete(path).status_code == 200
    assert hidden(dora.call("GET", "/v1/files", project=support)) == (404, "not_found", "OpenAI-Project")


def test_two_developers_of_two_projects_are_strangers_there(cast: Cast, support: str) -> None:
    default = cast.alice.project.wire_id
    dora, eve = colleague(cast, "Dora", Role.DEVELOPER), colleague(cast, "Eve", Role.DEVELOPER)
    add(cast, dora, support)
    add(cast, eve, default)
    upload_id = upload(dora, support).json()["id"]
    answers = [eve.call("POST", f"/v1/uploads/{upload_id}/cancel", project=project) for project in (support, default)]
    assert [hidden(answer) for answer in answers] == [
        (404, "not_found", "OpenAI-Project"), (404, "not_found", "id"),
    ]  # fmt: skip
    assert dora.call("POST", f"/v1/uploads/{upload_id}/cancel", project=support).json()["status"] == "cancelled"


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
def test_whose_model_is_shared_with_whom_is_seen_where_the_model_is(
    cast: Cast, support: str, role: Role, tmp_path: Path
) -> None:
    add_model(tmp_path / "model")
    model = publish(cast.alice)
    path = f"/v1/fine_tuning/checkpoints/{model.name}/permissions"
    assert cast.alice.admin.post(path, {"project_ids": [support]}).status_code == 200
    dora = colleague(cast, "Dora", role)
    add(cast, dora, support)
    assert hidden(dora.call("GET", path)) == (404, "not_found", "fine_tuned_model_checkpoint")
    add(cast, dora, cast.alice.project.wire_id)
    assert [permission["project_id"] for permission in dora.call("GET", path).json()["data"]] == [support]


def test_billing_sees_every_project_and_works_in_none(cast: Cast, support: str) -> None:
    dora = colleague(cast, "Dora", Role.BILLING)
    assert dora.projects() == [support, cast.alice.project.wire_id]
    for project in dora.projects():
        answer = dora.call("GET", "/v1/files", project=project)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
def test_owners_and_admins_work_everywhere_until_they_are_none(cast: Cast, support: str, role: Role) -> None:
    dora = colleague(cast, "Dora", role)
    assert dora.projects() == [support, cast.alice.project.wire_id]
    founded = dora.call("POST", PROJECTS, {"name": "Dora's"}).json()["id"]
    for project in dora.projects():
        assert upload(dora, project).status_code == 200
    add(cast, dora, founded, "owner")
    path = f"/v1/organization/users/{user_id(cast.alice, dora.person.email)}"
    assert cast.alice.admin.post(path, {"role": "developer"}).status_code == 200
    assert dora.projects() == [founded]
    assert upload(dora, founded).status_code == 200
    assert hidden(upload(dora, support)) == (404, "not_found", "OpenAI-Project")


def test_who_founds_an_organisation_works_in_its_project(database: None) -> None:
    let_throttles_pass()
    ada = make_person("Ada")
    made = ada.call("POST", "/v1/organizations", {"name": "Ada's company"}).json()
    where = {"OpenAI-Organization": made["id"], "OpenAI-Project": made["project_id"]}
    assert ada.call("GET", "/v1/files", headers=where).json()["data"] == []
    listed = ada.call("GET", PROJECTS, headers={"OpenAI-Organization": made["id"]}).json()["data"]
    assert [project["id"] for project in listed] == [made["project_id"]]


def test_the_project_of_others_is_hidden_after_its_archive_too(cast: Cast, support: str) -> None:
    dora = colleague(cast, "Dora", Role.DEVELOPER)
    assert cast.alice.admin.post(f"{PROJECTS}/{support}/archive").status_code == 200
    assert hidden(dora.call("GET", "/v1/files", project=support)) == (404, "not_found", "OpenAI-Project")
    assert dora.call("GET", f"{PROJECTS}?include_archived=true").json()["data"] == []


def test_an_admin_key_that_a_signed_in_owner_makes_has_all_that_it_can_have(cast: Cast) -> None:
    dora = colleague(cast, "Dora", Role.OWNER)
    made = dora.call("POST", "/v1/organization/admin_api_keys", {"name": "Robot"})
    assert made.status_code == 200, made.content
    with tenant_scope(cast.alice.organization.id):
        key = ApiKey.objects.get(name="Robot")
    assert (key.kind, key.scopes) == (ApiKey.Kind.ADMIN, sorted(ADMIN_SCOPES))


def test_developers_of_before_keep_the_projects_that_they_could_work_in(cast: Cast, support: str) -> None:
    cast.alice.admin.post(f"{PROJECTS}/{cast.alice.admin.post(PROJECTS, {'name': 'Past'}).json()['id']}/archive")
    join(cast.alice, "viewer@example.com", Role.VIEWER)
    migration = import_module("tenants.migrations.0013_developers_in_their_projects").Migration
    assert [change(migration.operations[0].sql) for _ in range(2)] == [2, 0]
    bob = User.objects.get(email="bob@example.com")
    with tenant_scope(cast.alice.organization.id):
        membership = Membership.objects.get(user_id=bob.id)
        parts = ProjectMembership.objects.select_related("project")
        assert {(part.membership_id, part.project.wire_id, part.role) for part in parts} == {
            (membership.id, project, "member") for project in (support, cast.alice.project.wire_id)
        }
        assert Project.objects.count() == 3
