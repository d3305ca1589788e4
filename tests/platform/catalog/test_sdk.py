"""Models through the unmodified ``openai`` SDK, strict, against a real server."""

from pathlib import Path

import openai
import pytest

from tests.support.cast import MODEL, Cast
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


def test_a_method_that_is_not_there_yet(server: Server, cast: Cast) -> None:
    with sdk(server, cast.alice) as client, pytest.raises(openai.APIStatusError) as caught:
        client.models.delete(MODEL)
    assert (caught.value.status_code, caught.value.code) == (405, "method_not_allowed")
