"""Fetching from a hub, with the real client library against a stand-in of the hub's API."""

import asyncio
import hashlib
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-worker" / "bin" / "python"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]


def tiny_files() -> dict[str, bytes]:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return {
        "model.safetensors": struct.pack("<Q", len(header)) + header + b"\0\0\0\0",
        "pytorch_model.bin": b"a pickle",
        "modeling_tiny.py": b"raise SystemExit",
        "config.json": b'{"max_position_embeddings": 512, "vocab_size": 100}',
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    }


@pytest.fixture
async def hub() -> AsyncIterator[tuple[str, list[str]]]:
    """Its address, and the names of the files that were fetched."""
    files, fetched = tiny_files(), list[str]()

    async def info(request: web.Request) -> web.Response:
        if request.match_info["revision"] not in (COMMIT, "v1"):
            return web.json_response({}, status=404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        return web.json_response({"id": "org/tiny", "sha": COMMIT, "siblings": siblings})

    async def resolve(request: web.Request) -> web.Response:
        content = files[request.match_info["name"]]
        if request.method == "GET":
            fetched.append(request.match_info["name"])
        return web.Response(
            body=content, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        )

    async def tree(request: web.Request) -> web.Response:
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files.items()
        ]
        return web.json_response(entries)

    app = web.Application()
    app.router.add_get("/api/models/org/tiny/revision/{revision}", info)
    app.router.add_get("/api/models/org/tiny/tree/{revision}", tree)
    app.router.add_get("/org/tiny/resolve/{revision}/{name}", resolve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", fetched
    await runner.cleanup()


async def run_prepare(tmp_path: Path, endpoint: str, revision: str) -> tuple[int | None, str]:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nname = "n"\n[[models]]\nname = "tiny"\nsource = "hub:org/tiny@{revision}"\ndevice = "cpu"\n'
    )
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "inference_workers", "prepare", "--config", config),
        env=os.environ | {"HONE_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    return process.returncode, errors.decode()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_hub_gives_its_safe_files_only(tmp_path: Path, hub: tuple[str, list[str]]) -> None:
    endpoint, fetched = hub
    status, errors = await run_prepare(tmp_path, endpoint, "v1")
    assert status == 0, errors
    safe = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(set(fetched)) == safe
    assert names(tmp_path / "home" / "models" / "tiny") == sorted([*safe, "hone-model.json"])


@pytest.mark.parametrize(("revision", "reason"), [("v2", "RevisionNotFoundError"), ("v1", "")])
async def test_a_hub_that_cannot_give_the_model_is_named(
    tmp_path: Path, hub: tuple[str, list[str]], unused_tcp_port: int, revision: str, reason: str
) -> None:
    endpoint = hub[0] if reason else f"http://127.0.0.1:{unused_tcp_port}"
    status, errors = await run_prepare(tmp_path, endpoint, revision)
    assert status == 1
    assert f"prepare failed: org/tiny@{revision} could not be fetched from the hub: {reason}" in errors
    assert not (tmp_path / "home" / "models" / "tiny").exists()
