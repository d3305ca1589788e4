"""The unmodified ``openai`` SDK, strict: an answer that is not what its types say raises."""

from typing import Any

from openai import AsyncOpenAI, OpenAI

from tests.support.cast import Member
from tests.support.server import Server


def sdk(server: Server, member: Member, **options: Any) -> OpenAI:
    """A client with the member's project and admin keys; close it with ``with``."""
    return OpenAI(**_options(server, member, options))


def async_sdk(server: Server, member: Member, **options: Any) -> AsyncOpenAI:
    """The same for asyncio."""
    return AsyncOpenAI(**_options(server, member, options))


def _options(server: Server, member: Member, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "api_key": member.token,
        "admin_api_key": member.admin_token,
        "base_url": server.base_url,
        "max_retries": 0,
        "timeout": 30,
        "_strict_response_validation": True,
        **options,
    }
