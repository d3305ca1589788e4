"""Adapters on real vLLM and a real model, on this machine's CPU: whose rows are answered by what, and what is refused.

Minutes, so one story in one test.
"""

import json
import math
import random
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest

from inference_workers.prepare import read_card
from inference_workers.protocol import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LeaseKind
from tests.inference_workers.control_plane import FakeControlPlane, Shard
from tests.inference_workers.test_real_vllm import CONFIG, MODEL, PYTHON, Agent, home
from tests.support.adapter_files import reference

__all__ = ["home"]  # a fixture

RANK = 4
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write a sentence about the sea.",
    "What is two plus two?",
]
Modules = dict[str, list[int]]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]


def adapter(modules: Modules, seed: int, *, strength: float = 1.0, rank: int = RANK) -> dict[str, bytes]:
    """The files of an adapter with random weights on these modules; of strength 0 it changes nothing."""
    chance = random.Random(seed)
    header: dict[str, Any] = {}
    numbers = array("f")
    for name, (rows, columns) in modules.items():
        for part, shape, scale in (
            ("lora_A", [rank, columns], 1 / math.sqrt(columns)),
            ("lora_B", [rows, rank], strength / rank),
        ):
            begin = 4 * len(numbers)
            numbers.extend(chance.uniform(-scale, scale) for _ in range(math.prod(shape)))
            place = [begin, 4 * len(numbers)]
            entry = {"dtype": "F32", "shape": shape, "data_offsets": place}
            header[f"base_model.model.{name}.{part}.weight"] = entry
    text = json.dumps(header).encode()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear", "bias": "none"}
    weights = struct.pack("<Q", len(text)) + text + numbers.tobytes()
    return {ADAPTER_CONFIG: json.dumps(config).encode(), ADAPTER_WEIGHTS: weights}


def ask(control_plane: FakeControlPlane, name: str, files: dict[str, bytes] | None, organization: str) -> Shard:
    """The questions for a model, greedily answered."""
    bodies = [
        {
            "model": name,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 10,
            "temperature": 0,
        }
        for question in QUESTIONS
    ]
    options: dict[str, Any] = {"adapter": reference(name, files), "files": files} if files else {}
    return control_plane.add(MODEL, bodies, organization_id=organization, **options)


def answers(shard: Shard) -> list[str]:
    for result in shard.results.values():
        assert result["status"] == 200, result
        assert result["body"]["model"] == next(iter(shard.rows.values()))["model"]
    return [shard.results[line]["body"]["choices"][0]["message"]["content"] for line in sorted(shard.rows)]


async def alone(control_plane: FakeControlPlane, name: str, files: dict[str, bytes] | None) -> list[str]:
    """What the model answers when nothing else runs."""
    shard = ask(control_plane, name, files, "org_1")
    await control_plane.until(control_plane.all_done, seconds=300)
    return answers(shard)


def try_out(control_plane: FakeControlPlane, name: str, files: dict[str, bytes]) -> Shard:
    return control_plane.add(MODEL, [], kind=LeaseKind.CANARY, adapter=reference(name, files), files=files)


def renamed(modules: Modules, old: str, new: str) -> Modules:
    return {name.replace(old, new): shape for name, shape in modules.items()}


async def test_adapters_and_the_base_side_by_side_and_what_the_canary_refuses(
    control_plane: FakeControlPlane, home: Path
) -> None:
    card = read_card(home / "models" / MODEL)
    assert card is not None
    modules: Modules = card["modules"]
    assert len(modules) == 210
    made = {f"ft:{name}": adapter(modules, seed) for seed, name in enumerate("abcd")}
    config = home / "node.toml"
    of_the_model, training = CONFIG.read_text().split("[training]")
    config.write_text(f"{of_the_model}lora = {{max_loras = 3, max_rank = 8}}\n[training]{training}")
    agent = await Agent.start(control_plane, home, config)
    try:
        await agent.until_ready(1)

        base = await alone(control_plane, MODEL, None)
        expected = {name: await alone(control_plane, name, made[name]) for name in ("ft:a", "ft:b")}
        assert len({tuple(texts) for texts in (base, *expected.values())}) == 3

        mixed = {
            "ft:a": ask(control_plane, "ft:a", made["ft:a"], "org_1"),
            "ft:b": ask(control_plane, "ft:b", made["ft:b"], "org_2"),
            MODEL: ask(control_plane, MODEL, None, "org_3"),
        }
        await control_plane.until(control_plane.all_done, seconds=300)
        assert {name: answers(shard) for name, shard in mixed.items()} == expected | {MODEL: base}

        # More adapters than the engine has slots: each new one takes the place of another, and never the base's.
        for name in ("ft:c", "ft:d"):
            pair = ask(control_plane, name, made[name], "org_1"), ask(control_plane, MODEL, None, "org_2")
            await control_plane.until(control_plane.all_done, seconds=300)
            assert answers(pair[0]) != base
            assert answers(pair[1]) == base
        assert await alone(control_plane, "ft:a", made["ft:a"]) == expected["ft:a"]

        truncated = made["ft:b"] | {ADAPTER_WEIGHTS: made["ft:b"][ADAPTER_WEIGHTS][:-1000]}
        pickled = made["ft:b"] | {ADAPTER_WEIGHTS: b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94."}
        turned = {name: shape[::-1] for name, shape in modules.items()}
        trials = {
            "good": adapter(modules, 99, strength=0.1),
            "of other layers": adapter(renamed(modules, "model.layers.", "model.blocks."), 1),
            "of another model": adapter(renamed(modules, "self_attn.q_proj", "attn.c_attn"), 1),
            "equal to the base": adapter(modules, 1, strength=0),
            "wrong shapes": adapter(turned, 1),
            "rank too high": adapter(dict(list(modules.items())[:7]), 1, rank=16),
            "cut off": truncated,
            "pickled": pickled,
        }
        verdicts: dict[str, str] = {}
        for name, files in trials.items():
            trial = try_out(control_plane, f"ft:{name}", files)
            await control_plane.until(
                lambda trial=trial: trial.state in ("completed", "failed") or bool(trial.failures),  # type: ignore[misc]  # bound now
                seconds=300,
            )
            verdicts[name] = trial.failures[0]["code"] if trial.failures else trial.state
            trial.state = "completed"
        assert verdicts == {"good": "completed"} | dict.fromkeys(list(trials)[1:], "canary_refused")

        # Whatever was tried, nobody is answered otherwise than before, and by the engine that has been there all along.
        assert await alone(control_plane, MODEL, None) == base
        assert await alone(control_plane, "ft:b", made["ft:b"]) == expected["ft:b"]
        assert sum(entry.get("state") == "ready" for entry in agent.log) == 1
        assert any("Using GroupedPunicaWrapper" in entry.get("line", "") for entry in agent.log)
    finally:
        await agent.end()
