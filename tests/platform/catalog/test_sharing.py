"""Permissions: another project of the organisation may call a model, and no more than that."""

from pathlib import Path
from typing import Any

import pytest

from catalog.models import FineTunedModel
from tenants.models import Project
from tenants.scope import tenant_scope
from tenants.services import create_api_key
from tests.support.adapters import publish
from tests.support.cast import ApiClient, Cast, Member
from tests.support.facts import count
from tests.support.model import add_model
from tests.support.tables import rows_of


@pytest.fixture
def model(cast: Cast, tmp_path: Path) -> FineTunedModel:
    add_model(tmp_path / "model")
    return publish(cast.alice)


def second_project(member: Member) -> tuple[Project, ApiClient]:
    with tenant_scope(member.organization.id):
        project = Project.objects.create(organization_id=member.organization.id, name="Second")
    return project, ApiClient(create_api_key(project=project, name="second", actor="system").token)


def permissions(model: FineTunedModel) -> str:
    return f"/v1/fine_tuning/checkpoints/{model.name}/permissions"


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def names(client: ApiClient) -> list[str]:
    return [entry["id"] for entry in client.get("/v1/models").json()["data"]]


def test_a_permission_lets_another_project_call_the_model_until_it_is_withdrawn(
    cast: Cast, model: FineTunedModel
) -> None:
    project, other = second_project(cast.alice)
    assert model.name not in names(other)
    made = cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id]}).json()
    assert [entry["project_id"] for entry in made["data"]] == [project.wire_id]
    assert model.name in names(other)
    permission_id = made["data"][0]["id"]
    assert cast.alice.admin.delete(f"{permissions(model)}/{permission_id}").json() == {
        "id": permission_id, "object": "checkpoint.permission", "deleted": True,
    }  # fmt: skip
    assert error(other.get(f"/v1/models/{model.name}"))[1] == "model_not_found"
    assert error(cast.alice.admin.delete(f"{permissions(model)}/{permission_id}"))[1] == "not_found"


def test_who_may_call_a_model_may_not_read_or_delete_it(cast: Cast, model: FineTunedModel) -> None:
    project, other = second_project(cast.alice)
    cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id]})
    before = rows_of(cast.alice.organization.id)
    for method, path in (("GET", "/download"), ("GET", "/manifest"), ("DELETE", "")):
        assert error(other.call(method, f"/v1/models/{model.name}{path}"))[1] == "model_not_found"
    assert rows_of(cast.alice.organization.id) == before


def test_granting_again_changes_nothing(cast: Cast, model: FineTunedModel) -> None:
    project, _ = second_project(cast.alice)
    for _ in range(2):
        cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id, project.wire_id]})
    assert count("catalog_checkpointpermission") == 1


def test_all_projects_or_none(cast: Cast, model: FineTunedModel) -> None:
    project, _ = second_project(cast.alice)
    before = rows_of(cast.alice.organization.id)
    for foreign in (cast.charlie.project.wire_id, "proj_x"):
        answer = cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id, foreign]})
        assert error(answer) == (404, "not_found", "project_ids")
    assert rows_of(cast.alice.organization.id) == before


def test_a_permission_goes_with_its_model(cast: Cast, model: FineTunedModel) -> None:
    project, _ = second_project(cast.alice)
    cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id]})
    assert cast.alice.client.delete(f"/v1/models/{model.name}").status_code == 200
    assert count("catalog_checkpointpermission") == 0
    assert error(cast.alice.admin.get(permissions(model)))[1] == "not_found"


def test_permissions_are_for_administrators(cast: Cast, model: FineTunedModel) -> None:
    answer = cast.alice.client.post(permissions(model), {"project_ids": [cast.alice.project.wire_id]})
    assert error(answer)[:2] == (403, "wrong_key_type")
    assert error(cast.alice.admin.get(f"{permissions(model)}?order=asc"))[1:] == ("invalid_value", "order")


def test_an_alias_may_stand_for_a_shared_model_and_stands_for_nothing_without_the_permission(
    cast: Cast, model: FineTunedModel
) -> None:
    project, other = second_project(cast.alice)
    made = cast.alice.admin.post(permissions(model), {"project_ids": [project.wire_id]}).json()
    assert other.post("/v1/models/aliases", {"alias": "bot", "model": model.name}).status_code == 200
    assert other.get("/v1/models/bot").json()["alias_of"] == model.name
    cast.alice.admin.delete(f"{permissions(model)}/{made['data'][0]['id']}")
    assert error(other.get("/v1/models/bot"))[1] == "model_not_found"
