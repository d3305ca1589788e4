"""Models through the unmodified ``openai`` SDK, strict, against a real server."""

from pathlib import Path

import openai
import pytest

from tests.support.adapters import publish
from tests.support.cast import MODEL, Cast, Member
from tests.support.model import add_model
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server


@pytest.fixture(autouse=True)
def models(cast: Cast, tmp_path: Path) -> None:
    for name in (MODEL, "tuned:a"):
        add_model(tmp_path / "model", name=name)


def test_models_are_listed_and_retrieved(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client:
        listed = list(client.models.list())
        assert [model.id for model in listed] == [MODEL, "tuned:a"]
        assert client.models.retrieve("tuned:a") == listed[1]
        assert (listed[0].object, listed[0].owned_by) == ("model", "hone")


async def test_the_same_for_asyncio(server: Server, cast: Cast) -> None:
    async with async_sdk(server, cast.alice) as client:
        assert [model.id async for model in client.models.list()] == [MODEL, "tuned:a"]
        assert (await client.models.retrieve("tuned:a")).id == "tuned:a"


@pytest.mark.parametrize("name", ["absent", "meta/llama", "ft:x:y::z"])
def test_a_model_that_does_not_exist(server: Server, cast: Cast, name: str) -> None:
    with sdk(server, cast.alice) as client, pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id
    assert name in caught.value.message


def test_a_base_model_is_nobodys_to_delete(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client, pytest.raises(openai.NotFoundError) as caught:
        client.models.delete(MODEL)
    assert caught.value.code == "model_not_found"


def test_a_fine_tuned_model_is_listed_retrieved_and_deleted(server: Server, cast: Cast) -> None:
    tuned = publish(cast.alice)
    with sdk(server, cast.alice) as client:
        assert [model.id for model in client.models.list()] == [tuned.name, MODEL, "tuned:a"]
        shown = client.models.retrieve(tuned.name)
        assert (shown.id, shown.owned_by) == (tuned.name, cast.alice.organization.wire_id)
        deleted = client.models.delete(tuned.name)
        assert (deleted.id, deleted.object, deleted.deleted) == (tuned.name, "model", True)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve(tuned.name)


def test_a_checkpoint_is_shared_with_another_project(server: Server, cast: Cast) -> None:
    tuned = publish(cast.alice, step=100)
    other = create_project(cast.alice)
    with sdk(server, cast.alice, api_key=cast.alice.admin_token) as client:
        permissions = client.fine_tuning.checkpoints.permissions
        (made,) = permissions.create(tuned.name, project_ids=[other])
        assert (made.object, made.project_id) == ("checkpoint.permission", other)
        assert [entry.id for entry in permissions.list(tuned.name)] == [made.id]
        assert [entry.id for entry in permissions.list(tuned.name, project_id=other, order="ascending")] == [made.id]
        assert [entry.id for entry in permissions.list(tuned.name, project_id=cast.alice.project.wire_id)] == []
        with pytest.warns(DeprecationWarning, match="Retrieve is deprecated"):
            assert permissions.retrieve(tuned.name).data[0].id == made.id
        gone = permissions.delete(made.id, fine_tuned_model_checkpoint=tuned.name)
        assert (gone.id, gone.deleted) == (made.id, True)
        assert list(permissions.list(tuned.name)) == []


def create_project(member: Member) -> str:
    answer = member.admin.post("/v1/organization/projects", {"name": "Second"})
    return str(answer.json()["id"])
