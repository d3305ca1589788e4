"""Aliases: names that move from one version of a model to the next, and back."""

from pathlib import Path
from typing import Any

import pytest

from catalog import aliases
from catalog.models import FineTunedModel
from catalog.publishing import register_adapter
from catalog.selectors import get_served_model
from common.errors import HoneError
from tenants.scope import tenant_scope
from tenants.selectors import find_key
from tenants.services import create_api_key
from tests.support.adapters import publish, register
from tests.support.cast import MODEL, ApiClient, Cast, Member
from tests.support.facts import query_owner
from tests.support.model import add_model
from tests.support.tables import rows_of
from tests.support.threads import at_once

ALIASES = "/v1/models/aliases"


@pytest.fixture
def versions(cast: Cast, tmp_path: Path) -> list[FineTunedModel]:
    add_model(tmp_path / "model")
    return [publish(cast.alice) for _ in range(3)]


def create(member: Member, model: FineTunedModel | str, alias: str = "bot", **headers: str) -> Any:
    name = model if isinstance(model, str) else model.name
    return member.client.post(ALIASES, {"alias": alias, "model": name}, headers=headers)


def promote(member: Member, model: FineTunedModel, alias: str = "bot") -> Any:
    return member.client.post(f"{ALIASES}/{alias}", {"model": model.name})


def roll_back(member: Member, alias: str = "bot") -> Any:
    return member.client.post(f"{ALIASES}/{alias}/rollback")


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def served(member: Member, name: str) -> str:
    """What the name stands for when the member's key calls it."""
    found = find_key(member.token)
    assert found is not None
    with tenant_scope(member.organization.id):
        return get_served_model(key=found.key, name=name).name


def test_an_alias_is_created_promoted_and_rolled_back_in_one_call(cast: Cast, versions: list[FineTunedModel]) -> None:
    one, two, _ = versions
    made = create(cast.alice, one).json()
    assert (made["object"], made["alias"], made["model"], made["previous_model"]) == (
        "model_alias", "bot", one.name, None,
    )  # fmt: skip
    moved = promote(cast.alice, two).json()
    assert (moved["id"], moved["model"], moved["previous_model"]) == (made["id"], two.name, one.name)
    assert served(cast.alice, "bot") == two.name
    back = roll_back(cast.alice).json()
    assert (back["model"], back["previous_model"]) == (one.name, two.name)
    assert served(cast.alice, "bot") == one.name
    assert roll_back(cast.alice).json()["model"] == two.name
    history = cast.alice.client.get(f"{ALIASES}/bot/history").json()["data"]
    assert [(entry["reason"], entry["model"]) for entry in history] == [
        ("rolled_back", two.name), ("rolled_back", one.name), ("promoted", two.name), ("created", one.name),
    ]  # fmt: skip
    actions = query_owner("SELECT action FROM tenants_auditevent WHERE action LIKE 'model_alias.%%' ORDER BY id")
    assert [action for (action,) in actions] == [
        "model_alias.created", "model_alias.promoted", "model_alias.rolled_back", "model_alias.rolled_back",
    ]  # fmt: skip


def test_promoting_what_it_stands_for_already_changes_nothing(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    before = rows_of(cast.alice.organization.id)
    assert promote(cast.alice, versions[0]).status_code == 200
    assert rows_of(cast.alice.organization.id) == before


def test_promoting_an_alias_that_is_not_there_makes_it(cast: Cast, versions: list[FineTunedModel]) -> None:
    assert promote(cast.alice, versions[0], "new").json()["model"] == versions[0].name


def test_an_alias_is_listed_among_models_as_what_it_stands_for(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    shown = cast.alice.client.get("/v1/models/bot").json()
    assert (shown["id"], shown["alias_of"], shown["base"]) == ("bot", versions[0].name, MODEL)
    assert shown in cast.alice.client.get("/v1/models").json()["data"]
    assert error(cast.charlie.client.get("/v1/models/bot"))[1] == "model_not_found"


def test_a_name_is_taken_once_and_a_deleted_one_is_free(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    assert error(create(cast.alice, versions[1])) == (409, "conflict", "alias")
    assert cast.alice.client.delete(f"{ALIASES}/bot").json() == {
        "id": "bot", "object": "model_alias", "deleted": True,
    }  # fmt: skip
    assert error(cast.alice.client.delete(f"{ALIASES}/bot")) == (404, "not_found", "alias")
    assert cast.alice.client.get(ALIASES).json()["data"] == []
    assert create(cast.alice, versions[1]).status_code == 200


def test_a_repeated_create_gets_the_alias_made_then(cast: Cast, versions: list[FineTunedModel]) -> None:
    made = [create(cast.alice, versions[0], **{"Idempotency-Key": "once"}).json()["id"] for _ in range(2)]
    assert made[0] == made[1]


def test_of_creates_at_the_same_time_one_succeeds(cast: Cast, versions: list[FineTunedModel]) -> None:
    answers: list[int] = []
    at_once(*[lambda model=model: answers.append(create(cast.alice, model).status_code) for model in versions])
    assert sorted(answers) == [200, 409, 409]


def test_promotions_at_the_same_time_leave_a_history_that_adds_up(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    at_once(*[lambda model=model: promote(cast.alice, model) for model in versions[1:]])
    alias = cast.alice.client.get(f"{ALIASES}/bot").json()
    history = cast.alice.client.get(f"{ALIASES}/bot/history").json()["data"]
    assert [entry["model"] for entry in history[:2]] == [alias["model"], alias["previous_model"]]


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "-a", "ft:x", "x" * 65, "a b", "aliases", "\0"])
def test_a_name_that_cannot_be_an_alias(cast: Cast, versions: list[FineTunedModel], name: str) -> None:
    before = rows_of(cast.alice.organization.id)
    answer = create(cast.alice, versions[0], name)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "alias")
    assert rows_of(cast.alice.organization.id) == before


def test_a_base_models_name_is_no_alias_and_a_later_base_does_not_take_one_over(
    cast: Cast, versions: list[FineTunedModel], tmp_path: Path
) -> None:
    assert error(create(cast.alice, versions[0], MODEL)) == (409, "conflict", "alias")
    create(cast.alice, versions[0])
    add_model(tmp_path / "later", name="bot")
    assert served(cast.alice, "bot") == versions[0].name
    assert cast.alice.client.get("/v1/models/bot").json()["alias_of"] == versions[0].name
    assert served(cast.charlie, "bot") == "bot"


def test_only_what_can_be_called_is_aliased(cast: Cast, versions: list[FineTunedModel]) -> None:
    names = (publish(cast.charlie).name, register(cast.alice).name, MODEL, "nothing")
    before = rows_of(cast.alice.organization.id)
    for name in names:
        assert error(create(cast.alice, name))[1] == "model_not_found"
    assert rows_of(cast.alice.organization.id) == before


def test_an_alias_without_a_past_cannot_go_back(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    assert error(roll_back(cast.alice)) == (409, "conflict", "alias")
    assert error(roll_back(cast.alice, "other")) == (404, "not_found", "alias")


def test_an_alias_cannot_go_back_to_a_model_that_was_deleted(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    promote(cast.alice, versions[1])
    assert cast.alice.client.delete(f"/v1/models/{versions[0].name}").status_code == 200
    before = rows_of(cast.alice.organization.id)
    assert error(roll_back(cast.alice)) == (409, "conflict", "alias")
    assert rows_of(cast.alice.organization.id) == before


def test_a_deletion_and_a_promotion_at_the_same_time_agree(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    answers: dict[str, int] = {}
    at_once(
        lambda: answers.update(promoted=promote(cast.alice, versions[1]).status_code),
        lambda: answers.update(deleted=cast.alice.client.delete(f"/v1/models/{versions[1].name}").status_code),
    )
    assert answers in ({"promoted": 200, "deleted": 409}, {"promoted": 404, "deleted": 200})


def test_a_key_may_be_bound_to_an_alias(cast: Cast, versions: list[FineTunedModel]) -> None:
    create(cast.alice, versions[0])
    made = create_api_key(project=cast.alice.project, name="k", actor="system", allowed_models=["bot"])
    client = ApiClient(made.token)
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["bot"]
    promote(cast.alice, versions[1])
    assert client.get("/v1/models/bot").json()["alias_of"] == versions[1].name
    assert error(client.get(f"/v1/models/{versions[1].name}"))[1] == "model_not_found"


def test_a_project_has_only_so_many(
    cast: Cast, versions: list[FineTunedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aliases, "MAX_ALIASES", 1)
    create(cast.alice, versions[0])
    assert error(create(cast.alice, versions[0], "second")) == (409, "conflict", "alias")


def test_adapters_on_an_unknown_base_are_nobodys(cast: Cast, versions: list[FineTunedModel]) -> None:
    versions[0].base.modules_key = ""
    with pytest.raises(HoneError, match="prepare and register it again"):
        register_adapter(
            project=cast.alice.project, base=versions[0].base, job_id="j", step=None, suffix="", files={}, manifest={}
        )
