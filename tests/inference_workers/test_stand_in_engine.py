"""The stand-in keeps the parts of vLLM's interface that Hone relies on."""

import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest

from tests.inference_workers.conftest import STAND_IN
from tests.support.stand_in_engine import Engine, answer_to


@pytest.fixture
async def url(unused_tcp_port: int) -> AsyncIterator[str]:
    arguments = ["--port", str(unused_tcp_port), "--served-model-name", "m", "--model", "/x", "--enforce-eager"]
    process = await asyncio.create_subprocess_exec(sys.executable, str(STAND_IN), *arguments, env={"VLLM_API_KEY": "k"})
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with aiohttp.ClientSession() as session, asyncio.timeout(10):
        while True:
            try:
                async with session.get(f"{url}/health") as response:
                    assert response.status == 200
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
    yield url
    process.terminate()
    assert await process.wait() == 0


async def test_the_official_client_gets_the_same_answer_each_time(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:
        answers = [
            await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello there"}], max_tokens=5
            )
            for _ in range(2)
        ]
        assert (
            answers[0].choices[0].message.content
            == answers[1].choices[0].message.content
            == answer_to("hello there", 5)
        )
        assert answers[0].usage is not None
        assert (answers[0].usage.prompt_tokens, answers[0].usage.completion_tokens) == (2, 5)
        completion = await client.completions.create(model="m", prompt="hello", max_tokens=3)
        assert completion.choices[0].text == answer_to("hello", 3)
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hello there"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == answer_to("hello there", 5)
        assert chunks[-1].usage is not None


async def test_errors_have_their_status(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.completions.create(model="m", prompt="x")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="x")
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="m", prompt=[])
        with pytest.raises(openai.BadRequestError, match="priority scheduling is not enabled"):
            await client.completions.create(model="m", prompt="x", extra_body={"priority": 10})


def test_a_key_is_optional() -> None:
    assert Engine("m", 0, 0).app()
