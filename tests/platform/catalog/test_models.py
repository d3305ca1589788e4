"""Models as a key sees them."""

from pathlib import Path
from typing import Any

import pytest

from catalog.services import retire_model
from tenants.services import create_api_key
from tests.support.cast import MODEL, ApiClient, Cast
from tests.support.model import add_model


@pytest.fixture
def models(cast: Cast, tmp_path: Path) -> None:
    for name in (MODEL, "tuned:a", "b.c-d_e:1"):
        add_model(tmp_path / "model", name=name)


def names(client: ApiClient) -> list[str]:
    answer = client.get("/v1/models")
    assert answer.status_code == 200
    return [entry["id"] for entry in answer.json()["data"]]


def missing(client: ApiClient, path: str) -> dict[str, Any]:
    """The error of a model that is not there."""
    answer = client.get(f"/v1/models/{path}")
    assert answer.status_code == 404
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_an_installation_without_models(cast: Cast) -> None:
    assert cast.alice.client.get("/v1/models").json() == {"object": "list", "data": []}


def test_models_are_listed_by_name_without_pages(cast: Cast, models: None) -> None:
    answer = cast.alice.client.get("/v1/models").json()
    assert answer.keys() == {"object", "data"}
    assert [entry["id"] for entry in answer["data"]] == ["b.c-d_e:1", MODEL, "tuned:a"]
    entry = answer["data"][1]
    assert entry == {
        "id": MODEL,
        "object": "model",
        "created": entry["created"],
        "owned_by": "hone",
        "context_length": 4_096,
        "capabilities": ["chat", "completions"],
        "revision": "0" * 64,
    }
    assert cast.alice.client.get(f"/v1/models/{MODEL}").json() == entry


def test_a_name_may_arrive_percent_encoded(cast: Cast, models: None) -> None:
    for path, name in {"tuned:a": "tuned:a", "tuned%3Aa": "tuned:a", "b%2Ec-d_e%3A1": "b.c-d_e:1"}.items():
        answer = cast.alice.client.get(f"/v1/models/{path}")
        assert (answer.status_code, answer.json()["id"]) == (200, name)


def test_a_model_that_does_not_exist(cast: Cast, models: None) -> None:
    for path in ("nothing", "LITTLE", "a%2Fb", "a/b", "%00", "little%00", "%ff", "little/", "x" * 500):
        error = missing(cast.alice.client, path)
        assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")


def test_a_key_sees_the_models_it_may_use_alone(cast: Cast, models: None) -> None:
    narrow = ApiClient(
        create_api_key(project=cast.alice.project, name="k", actor="system", allowed_models=["tuned:a", "gone"]).token
    )
    assert names(narrow) == ["tuned:a"]
    assert narrow.get("/v1/models/tuned:a").status_code == 200
    forbidden, absent = missing(narrow, MODEL), missing(narrow, "absent")
    assert forbidden == {**absent, "message": absent["message"].replace("absent", MODEL)}
    assert names(cast.alice.client) == ["b.c-d_e:1", MODEL, "tuned:a"]


def test_a_key_that_may_use_no_model_sees_none(cast: Cast, models: None) -> None:
    none = create_api_key(project=cast.alice.project, name="k", actor="system", allowed_models=[])
    assert names(ApiClient(none.token)) == []


def test_a_retired_model_is_gone_for_everybody(cast: Cast, models: None) -> None:
    retire_model(name=MODEL)
    assert names(cast.alice.client) == names(cast.charlie.client) == ["b.c-d_e:1", "tuned:a"]
    assert missing(cast.alice.client, MODEL)["code"] == "model_not_found"
