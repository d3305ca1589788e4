"""An evaluation by real vLLM of a real model on this machine's CPU. Minutes, so one story in one test."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from inference_workers.prepare import read_card
from tests.inference_workers.evaluation_plane import EvaluationPlane
from tests.inference_workers.test_real_adapters import adapter
from tests.inference_workers.test_real_vllm import MODEL, PYTHON, Agent, home
from tests.support.adapter_files import write

__all__ = ["home"]  # a fixture

REFERENCE = Path(__file__).parents[1] / "support" / "reference_losses.py"
LABELS = ["positive", "negative"]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PYTHON.exists(), reason="the worker's environment is not installed"),
]


@pytest.fixture
async def control_plane() -> AsyncIterator[EvaluationPlane]:
    plane = EvaluationPlane()
    await plane.start()
    yield plane
    await plane.stop()
    assert plane.violations == []


def held_out(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Rows of three tasks, as a prepared dataset has them; of a conversation the answers alone are trained on."""
    questions: list[tuple[str, str, dict[str, Any]]] = [
        *((f"Is the mood of '{text}' good?", LABELS[number % 2], {"choices": LABELS}) for number, text in MOODS),
        *((f"Read as JSON: {name} is {age}.", _json(name, age), {"json_schema": SCHEMA}) for name, age in PEOPLE),
        *((f"What is {number} plus {number}?", f"It is {2 * number}, of course.", {}) for number in range(4)),
    ]
    rows = []
    for line, (question, reference, options) in enumerate(questions, start=1):
        prompt = tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").ids
        answer = tokenizer.encode(f"{reference}<|im_end|>").ids
        rows.append(
            {
                "line": line,
                "messages": [{"role": "user", "content": question}],
                "reference": reference,
                "max_tokens": 48,
                "ids": prompt + answer,
                "trained": [[1, 3], [len(prompt), len(prompt) + len(answer)]],
                **options,
            }
        )
    return rows


MOODS = list(enumerate(["what a lovely day", "I hate the rain", "the best soup ever", "never again", "so kind", "sad"]))
PEOPLE = [("Ada", 36), ("Bo", 7), ("Chen", 52)]


def _json(name: str, age: int) -> str:
    return json.dumps({"name": name, "age": age}, separators=(",", ":"))


async def reference_losses(
    folder: Path, files: dict[str, bytes], data: bytes, model: Path
) -> list[tuple[float, float]]:
    """By base and tuned model, of every row."""
    (folder / "rows.ndjson").write_bytes(data)
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, REFERENCE, model, write(folder / "adapter", files), folder / "rows.ndjson"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [(base, tuned) for base, tuned in json.loads(output)]


async def test_losses_are_those_of_the_trainers_library_and_answers_what_they_are_held_to(
    control_plane: EvaluationPlane, home: Path, tmp_path: Path
) -> None:
    model = home / "models" / MODEL
    card = read_card(model)
    assert card is not None
    files = adapter(card["modules"], seed=1)
    rows = held_out(Tokenizer.from_file(str(model / "tokenizer.json")))
    agent = await Agent.start(control_plane, home)
    try:
        await agent.until_ready(1)
        evaluation = control_plane.add_evaluation(MODEL, rows, name=f"ft:{MODEL}:org::1", files=files)
        await control_plane.until(lambda: evaluation.state == "completed", seconds=300)
    finally:
        await agent.end()
    found = evaluation.found
    assert [result["line"] for result in found] == [row["line"] for row in rows]
    expected = await reference_losses(tmp_path, files, evaluation.data, model)
    for result, (base, tuned) in zip(found, expected, strict=True):
        assert result["base"]["error"] is result["tuned"]["error"] is None, result
        assert result["base"]["loss"] == pytest.approx(base, abs=1e-3)
        assert result["tuned"]["loss"] == pytest.approx(tuned, abs=1e-3)
        assert abs(base - tuned) > 0.01  # else the comparison would say nothing
    texts = [(result["base"]["text"], result["tuned"]["text"]) for result in found]
    assert {text for pair in texts[: len(MOODS)] for text in pair} <= set(LABELS)
    for pair in texts[len(MOODS) : len(MOODS) + len(PEOPLE)]:
        assert all(set(json.loads(text)) == {"name", "age"} for text in pair)
    assert texts != [(base, base) for base, _ in texts]
