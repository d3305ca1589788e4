"""A project's own limits and its choice of models."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from catalog.services import retire_model
from tenants.services import create_api_key
from tests.support.cast import MODEL, ApiClient, Cast, Member
from tests.support.facts import count
from tests.support.model import add_model
from tests.support.rows import create, jsonl, line, retrieve
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.worker import run_control


@pytest.fixture
def models(cast: Cast, tmp_path: Path) -> None:
    for name in (MODEL, "other", "Zed"):
        add_model(tmp_path / "model", name=name)


def project(member: Member) -> str:
    return f"/v1/organization/projects/{member.project.wire_id}"


def names(client: ApiClient) -> list[str]:
    return [entry["id"] for entry in client.get("/v1/models").json()["data"]]


def restrict(member: Member, mode: str, *model_ids: str) -> Any:
    return member.admin.post(f"{project(member)}/model_permissions", {"mode": mode, "model_ids": list(model_ids)})


def set_limit(member: Member, model: str = MODEL, **fields: Any) -> Any:
    return member.admin.post(f"{project(member)}/rate_limits/rl-{model}", fields)


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_a_policy_narrows_what_every_key_of_the_project_may_use(cast: Cast, models: None) -> None:
    narrow = ApiClient(
        create_api_key(project=cast.alice.project, name="k", actor="system", allowed_models=[MODEL, "Zed"]).token
    )
    assert restrict(cast.alice, "allow_list", "other", "Zed").status_code == 200
    assert (names(cast.alice.client), names(narrow)) == (["Zed", "other"], ["Zed"])
    assert names(cast.charlie.client) == ["Zed", MODEL, "other"]
    assert error(cast.alice.client.get(f"/v1/models/{MODEL}")) == (404, "model_not_found", "model")
    assert restrict(cast.alice, "deny_list", "Zed").status_code == 200
    assert (names(cast.alice.client), names(narrow)) == ([MODEL, "other"], [MODEL])


def test_a_batch_cannot_name_a_denied_model(cast: Cast, models: None) -> None:
    restrict(cast.alice, "deny_list", MODEL)
    file_id = cast.alice.client.upload(jsonl([line(1)])).json()["id"]
    batch = create(cast.alice, file_id).json()
    run_control()
    ended = retrieve(cast.alice, batch)
    assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "model_not_found")


def test_a_policy_that_makes_no_sense(cast: Cast, models: None) -> None:
    before = rows_of(cast.alice.organization.id)
    assert error(restrict(cast.alice, "allow_list", "nothing")) == (404, "model_not_found", "model_ids")
    assert error(restrict(cast.alice, "list")) == (400, "invalid_value", "mode")
    path = f"{project(cast.alice)}/model_permissions"
    assert error(cast.alice.admin.post(path, {"mode": "deny_list"})) == (
        400, "missing_required_parameter", "model_ids",
    )  # fmt: skip
    assert rows_of(cast.alice.organization.id) == before


def test_the_same_policy_again_changes_nothing(cast: Cast, models: None) -> None:
    restrict(cast.alice, "allow_list", "other", MODEL, "other")
    before = rows_of(cast.alice.organization.id)
    assert restrict(cast.alice, "allow_list", MODEL, "other").json()["model_ids"] == [MODEL, "other"]
    assert rows_of(cast.alice.organization.id) == before
    path = f"{project(cast.alice)}/model_permissions"
    assert cast.alice.admin.delete(path).status_code == 200
    after = rows_of(cast.alice.organization.id)
    assert cast.alice.admin.delete(path).status_code == 200
    assert rows_of(cast.alice.organization.id) == after


def test_two_policies_at_once_leave_one(cast: Cast, models: None) -> None:
    answers = at_once(
        lambda: restrict(cast.alice, "allow_list", MODEL), lambda: restrict(cast.alice, "deny_list", "other")
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    assert count("catalog_modelpolicy") == 1


def test_limits_are_the_installations_until_they_are_lowered(cast: Cast, models: None, settings: Settings) -> None:
    settings.LIMIT_REQUESTS_PER_MINUTE = 50
    path = f"{project(cast.alice)}/rate_limits"
    listed = cast.alice.admin.get(path).json()
    assert [entry["id"] for entry in listed["data"]] == ["rl-Zed", f"rl-{MODEL}", "rl-other"]
    assert listed["data"][1] == {
        "id": f"rl-{MODEL}",
        "object": "project.rate_limit",
        "model": MODEL,
        "max_requests_per_1_minute": 50,
        "max_tokens_per_1_minute": 2_000_000,
        "max_requests_per_1_day": None,
        "batch_1_day_max_input_tokens": 1_000_000_000,
    }
    lowered = set_limit(cast.alice, max_requests_per_1_minute=40, max_requests_per_1_day=9).json()
    assert (lowered["max_requests_per_1_minute"], lowered["max_requests_per_1_day"]) == (40, 9)
    settings.LIMIT_REQUESTS_PER_MINUTE = 30
    assert cast.alice.admin.get(path).json()["data"][1]["max_requests_per_1_minute"] == 30
    assert (
        cast.charlie.admin.get(f"{project(cast.charlie)}/rate_limits").json()["data"][1]["max_requests_per_1_day"]
        is None
    )
    settings.LIMIT_REQUESTS_PER_MINUTE = 60
    reset = set_limit(cast.alice, max_requests_per_1_minute=None).json()
    assert (reset["max_requests_per_1_minute"], reset["max_requests_per_1_day"]) == (60, 9)


@pytest.mark.parametrize(
    ("model", "fields", "refusal"),
    [
        (MODEL, {"max_requests_per_1_minute": 10_001}, (400, "invalid_value", "max_requests_per_1_minute")),
        (MODEL, {"max_tokens_per_1_minute": -1}, (400, "invalid_value", "max_tokens_per_1_minute")),
        (MODEL, {"batch_1_day_max_input_tokens": 10**30}, (400, "invalid_value", "batch_1_day_max_input_tokens")),
        (MODEL, {"max_images_per_1_minute": 1}, (400, "unknown_parameter", "max_images_per_1_minute")),
        ("nothing", {"max_requests_per_1_minute": 1}, (404, "not_found", "rate_limit_id")),
    ],
)
def test_a_limit_that_makes_no_sense(
    cast: Cast, models: None, model: str, fields: dict[str, int], refusal: tuple[int, str, str]
) -> None:
    before = rows_of(cast.alice.organization.id)
    assert error(set_limit(cast.alice, model, **fields)) == refusal
    assert rows_of(cast.alice.organization.id) == before


def test_a_retired_model_has_no_limits(cast: Cast, models: None) -> None:
    retire_model(name="other")
    listed = cast.alice.admin.get(f"{project(cast.alice)}/rate_limits").json()["data"]
    assert [entry["model"] for entry in listed] == ["Zed", MODEL]


def test_limits_turn_pages_both_ways(cast: Cast, models: None) -> None:
    path = f"{project(cast.alice)}/rate_limits"

    def page(query: str) -> tuple[list[str], bool]:
        answer = cast.alice.admin.get(f"{path}?{query}").json()
        return [entry["model"] for entry in answer["data"]], answer["has_more"]

    assert page("limit=2") == (["Zed", MODEL], True)
    assert page(f"limit=2&after=rl-{MODEL}") == (["other"], False)
    assert page("limit=1&before=rl-other") == ([MODEL], True)
    assert page("limit=2&before=rl-other") == (["Zed", MODEL], False)
    assert error(cast.alice.admin.get(f"{path}?after=a&before=b")) == (400, "invalid_value", "before")


def test_two_changes_of_one_models_limits_at_once(cast: Cast, models: None) -> None:
    answers = at_once(
        lambda: set_limit(cast.alice, max_requests_per_1_minute=1),
        lambda: set_limit(cast.alice, max_tokens_per_1_minute=2),
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    found = cast.alice.admin.get(f"{project(cast.alice)}/rate_limits").json()["data"][1]
    assert (found["max_requests_per_1_minute"], found["max_tokens_per_1_minute"]) == (1, 2)
