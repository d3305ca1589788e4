"""Leased evaluations on an engine that is a process, beside batches."""

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_workers import protocol
from inference_workers.config import LoraConfig
from tests.inference_workers.conftest import MODEL, StartNode, chat
from tests.inference_workers.evaluation_plane import TUNED, Evaluation, EvaluationPlane
from tests.support.adapter_files import distinct_contents
from tests.support.stand_in_engine import DIE, REFUSED, SLOW, answer_to

LORA = LoraConfig(max_loras=2, max_rank=16)


@pytest.fixture
async def control_plane() -> AsyncIterator[EvaluationPlane]:
    plane = EvaluationPlane()
    await plane.start()
    yield plane
    await plane.stop()
    assert plane.violations == []


def row(line: int, text: str = "", **options: Any) -> dict[str, Any]:
    return {
        "line": line,
        "messages": [{"role": "user", "content": text or f"row {line}"}],
        "reference": "x",
        "max_tokens": 3,
        "ids": [line, line + 1, line + 2],
        "trained": [[1, 3]],
        **options,
    }


def answers(evaluation: Evaluation) -> list[tuple[int, str | None, str | None]]:
    return [(found["line"], found["base"]["text"], found["tuned"]["text"]) for found in evaluation.found]


async def test_every_row_is_asked_of_both_models_and_told_in_the_order_of_the_file(
    control_plane: EvaluationPlane, start_node: StartNode
) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line) for line in (9, 2, 40, 5)])
    node = await start_node(lora=LORA, latency_ms=5)
    await control_plane.until(control_plane.all_done)
    assert [found["line"] for found in evaluation.found] == [9, 2, 40, 5]
    for found in evaluation.found:
        base, tuned = found["base"], found["tuned"]
        assert base["text"] == answer_to(f"row {found['line']}", 3)
        assert tuned["text"] != base["text"]
        assert (base["tokens"], base["error"], tuned["error"]) == (2, None, None)
        assert base["loss"] > 0
        assert base["loss"] != tuned["loss"]
        assert (base["input_tokens"], base["output_tokens"]) == (5, 4)
    assert await node.metric("stand_in:requests_finished_total") == 16
    assert (evaluation.epoch, evaluation.failures) == (1, [])


async def test_answers_are_held_to_their_choices(control_plane: EvaluationPlane, start_node: StartNode) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line, choices=["yes", "no"]) for line in range(1, 21)])
    await start_node(lora=LORA)
    await control_plane.until(control_plane.all_done)
    assert {base for _, base, _ in answers(evaluation)} == {"yes", "no"}
    assert {tuned for _, _, tuned in answers(evaluation)} == {"yes", "no"}


async def test_an_engine_without_adapters_is_not_asked(control_plane: EvaluationPlane, start_node: StartNode) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(1)])
    shard = control_plane.add(MODEL, [chat("row")])
    await start_node()
    await control_plane.until(lambda: shard.state == "completed")
    assert evaluation.state == "queued"


async def test_it_runs_beside_batches_of_others(control_plane: EvaluationPlane, start_node: StartNode) -> None:
    shard = control_plane.add(MODEL, [chat(f"big {number}") for number in range(400)], organization_id="org_a")
    await start_node(lora=LORA, max_in_flight=8, latency_ms=50)
    await control_plane.until(lambda: len(shard.results) > 0)
    evaluation = control_plane.add_evaluation(MODEL, [row(line) for line in range(1, 9)], organization_id="org_b")
    await control_plane.until(lambda: evaluation.state == "completed")
    assert shard.state == "leased"


async def test_rows_of_a_killed_engine_are_asked_again_of_the_next(
    control_plane: EvaluationPlane, start_node: StartNode
) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line) for line in range(1, 13)])
    node = await start_node(lora=LORA, max_in_flight=4, latency_ms=100)
    await node.metric_becomes("stand_in:requests_finished_total", 8, seconds=20)
    os.kill((await node.engine.wait_until_ready()).pid, signal.SIGKILL)
    await control_plane.until(control_plane.all_done)
    assert len(evaluation.found) == 12
    assert [found for found in evaluation.found if found["base"]["error"] or found["tuned"]["error"]] == []
    assert evaluation.epoch == 1


async def test_a_row_that_kills_the_engine_is_told_without_an_answer(
    control_plane: EvaluationPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.05)
    evaluation = control_plane.add_evaluation(MODEL, [row(line, DIE if line == 3 else "") for line in range(1, 7)])
    await start_node(lora=LORA, max_in_flight=4, latency_ms=20)
    await control_plane.until(control_plane.all_done, seconds=60)
    assert [found["line"] for found in evaluation.found if found["base"]["text"] is None] == [3]
    (poison,) = [found for found in evaluation.found if found["line"] == 3]
    assert (
        poison["base"]["error"] == poison["tuned"]["error"] == "The engine died every time it worked on this request."
    )
    assert poison["base"]["loss"] is not None


async def test_a_request_that_is_refused_is_told_with_its_reason(
    control_plane: EvaluationPlane, start_node: StartNode
) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(1, messages=[]), row(2)])
    await start_node(lora=LORA)
    await control_plane.until(control_plane.all_done)
    refused, answered = evaluation.found
    assert refused["base"]["text"] is None
    assert "messages a list of messages" in refused["base"]["error"]
    assert answered["base"]["text"] == answer_to("row 2", 3)


async def test_an_adapter_that_the_engine_refuses_ends_the_lease(
    control_plane: EvaluationPlane, start_node: StartNode
) -> None:
    files = distinct_contents(TUNED, stand_in=REFUSED)
    evaluation = control_plane.add_evaluation(MODEL, [row(1)], files=files)
    await start_node(lora=LORA)
    await control_plane.until(lambda: evaluation.failures != [])
    assert evaluation.failures[0]["code"] == "adapter_refused"


async def test_rows_that_are_not_those_announced_are_not_asked(
    control_plane: EvaluationPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(1)])
    work = control_plane._work
    monkeypatch.setattr(control_plane, "_work", lambda shard: _other_digest(work(shard)))
    node = await start_node(lora=LORA)
    await control_plane.until(lambda: evaluation.failures != [])
    assert evaluation.failures[0]["code"] == "worker_error"
    assert "is not what the control plane says it is" in evaluation.failures[0]["message"]
    assert await node.metric("stand_in:requests_finished_total") == 0


def _other_digest(work: protocol.EvaluationWork) -> protocol.EvaluationWork:
    return protocol.EvaluationWork(**{**vars(work), "data": protocol.BlobRef(sha256="0" * 64, bytes=work.data.bytes)})


async def test_cancelled_work_is_aborted_and_brings_nothing(
    control_plane: EvaluationPlane, start_node: StartNode
) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line, SLOW) for line in range(1, 5)])
    node = await start_node(lora=LORA, max_in_flight=4)
    await node.metric_becomes("vllm:num_requests_running", 4, seconds=10)
    evaluation.wish = protocol.LeaseAction.CANCEL
    await control_plane.until(lambda: evaluation.failures != [])
    assert evaluation.failures == [{"code": "cancelled", "message": "cancelled on request", "retryable": False}]
    await node.metric_becomes("vllm:num_requests_running", 0, seconds=5)
    assert evaluation.artifacts == {}


async def test_a_lost_lease_is_dropped(control_plane: EvaluationPlane, start_node: StartNode) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line, SLOW) for line in range(1, 5)])
    node = await start_node(lora=LORA, max_in_flight=4)
    await node.metric_becomes("vllm:num_requests_running", 4, seconds=10)
    control_plane.steal(evaluation)
    await node.metric_becomes("vllm:num_requests_running", 0, seconds=5)
    assert (evaluation.artifacts, evaluation.failures) == ({}, [])


async def test_results_are_sent_until_they_have_arrived(control_plane: EvaluationPlane, start_node: StartNode) -> None:
    evaluation = control_plane.add_evaluation(MODEL, [row(line) for line in range(1, 13)])
    node = await start_node(lora=LORA, max_in_flight=4, latency_ms=100)
    await node.metric_becomes("stand_in:requests_finished_total", 8, seconds=20)
    await control_plane.stop()
    await node.metric_becomes("stand_in:requests_finished_total", 48, seconds=20)
    assert evaluation.artifacts == {}
    await control_plane.start()
    await control_plane.until(control_plane.all_done)
    assert len(evaluation.found) == 12
    assert evaluation.epoch == 1
