"""An engine is started again when it dies, and left alone when it dies again and again."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference_workers.config import ModelConfig
from inference_workers.engine import Engine
from inference_workers.protocol import ModelState

STILLBORN = "import pathlib, sys; pathlib.Path({path!r}).open('a').write('x'); sys.exit('Error: no such accelerator')"


@pytest.fixture
def births(tmp_path: Path) -> Path:
    path = tmp_path / "births"
    path.touch()
    return path


@pytest.fixture
async def stillborn(births: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """An engine that ends while it starts, supervised."""
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.01)
    model = ModelConfig(
        name="m",
        source="folder:/nowhere",
        device="cpu",
        max_in_flight=64,
        restart_pause_seconds=1.5,
        command=(sys.executable, "-c", STILLBORN.format(path=str(births))),
    )
    engine = Engine(model, tmp_path, tmp_path / "m.process.json")
    supervision = asyncio.create_task(engine.supervise())
    yield engine
    supervision.cancel()
    await asyncio.gather(supervision, return_exceptions=True)


def count(births: Path) -> int:
    return len(births.read_text())


async def until_out(engine: Engine, *, out: bool) -> None:
    changed = asyncio.Event()
    engine.on_change(changed.set)
    async with asyncio.timeout(20):
        while engine.is_out != out:
            changed.clear()
            await changed.wait()


async def test_an_engine_that_never_becomes_ready_is_left_alone_after_four_tries_and_then_tried_once(
    stillborn: Engine, births: Path
) -> None:
    await until_out(stillborn, out=True)
    assert count(births) == 4
    assert stillborn.state == ModelState.FAILED
    reason = stillborn.message
    assert reason.startswith("died 4 times within ")
    assert reason.endswith(": the engine ended while starting: Error: no such accelerator")
    await until_out(stillborn, out=False)
    await until_out(stillborn, out=True)
    assert count(births) == 5
    assert stillborn.message.startswith("died 5 times within ")
