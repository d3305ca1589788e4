"""Leased shards on an engine that is a process, against a control plane that fences: what may never go wrong."""

import asyncio
import os
import re
import signal

import orjson
import pytest

from inference_workers import batch, protocol
from tests.inference_workers.conftest import MODEL, StartNode, chat, stand_in_command
from tests.inference_workers.control_plane import FakeControlPlane, Shard
from tests.support.stand_in_engine import BROKEN, DIE, GARBLED, SICK, SLOW, answer_to


def add_shards(control_plane: FakeControlPlane, shards: int, rows: int) -> list[Shard]:
    return [
        control_plane.add(MODEL, [chat(f"shard {shard} row {row}") for row in range(rows)]) for shard in range(shards)
    ]


async def test_every_row_is_answered_once_with_its_own_answer(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    (shard,) = add_shards(control_plane, 1, 50)
    await start_node()
    await control_plane.until(control_plane.all_done)
    assert sorted(shard.results) == list(range(1, 51))
    for line, result in shard.results.items():
        assert (result["status"], result["error"]) == (200, None)
        assert result["request_id"].startswith("req_")
        assert result["body"]["choices"][0]["message"]["content"] == answer_to(f"shard 0 row {line - 1}", 4)
        assert result["body"]["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}


async def test_the_engine_stays_full_across_the_ends_of_shards(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    add_shards(control_plane, 12, 5)  # none of which fills the engine on its own
    node = await start_node(max_in_flight=16, latency_ms=100)
    await control_plane.until(control_plane.all_done)
    assert await node.metric("stand_in:max_requests_running") == 16
    assert await node.metric("stand_in:requests_finished_total") == 60


async def test_no_more_shards_are_held_than_the_engine_needs(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shards = add_shards(control_plane, 6, 20)
    node = await start_node(max_in_flight=10, latency_ms=60_000)
    await node.metric_becomes("vllm:num_requests_running", 10, seconds=5)
    assert [shard.state for shard in shards] == ["leased"] + ["queued"] * 5  # 20 unanswered rows are 1.5 x 10 and more


async def test_a_full_segment_does_not_wait_and_a_small_one_not_for_long(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    (shard,) = add_shards(control_plane, 1, 150)
    shard.rows[151] = chat(SLOW)
    shard.row_timeout_seconds = 3
    await start_node(max_in_flight=151)
    await control_plane.until(lambda: len(shard.results) == 150, seconds=2.5)  # long before the slow row is given up
    await control_plane.until(control_plane.all_done)
    assert list(shard.segments) == list(range(len(shard.segments)))
    assert len(shard.segments) <= 6  # rows answered at once are committed at once


async def test_calls_whose_answers_were_lost_are_repeated_the_same(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    control_plane.drop_answers.extend(["input", "segments", "complete"])
    (shard,) = add_shards(control_plane, 1, 40)
    await start_node()
    await control_plane.until(lambda: control_plane.count("complete") == 2)
    assert control_plane.count("segments") == len(control_plane.segment_sizes) + 1
    assert sorted(shard.results) == list(range(1, 41))


async def test_nothing_is_sent_for_a_lost_lease_and_its_rows_are_aborted(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat(SLOW) for _ in range(8)])
    node = await start_node()
    await node.metric_becomes("vllm:num_requests_running", 8, seconds=5)
    control_plane.steal(shard)
    await node.metric_becomes("vllm:num_requests_running", 0, seconds=3)
    calls = len([path for _, path in control_plane.calls if shard.id in path])
    assert await node.metric("stand_in:requests_aborted_total") == 8
    other = control_plane.add(MODEL, [chat("another lease")])
    await control_plane.until(lambda: other.state == "completed")
    await asyncio.sleep(1.2)  # longer than a heartbeat's interval
    assert len([path for _, path in control_plane.calls if shard.id in path]) == calls
    assert shard.results == {}


async def test_cancel_aborts_within_two_seconds_and_keeps_what_has_finished(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat("quick")] + [chat(SLOW) for _ in range(7)])
    node = await start_node()
    await node.metric_becomes("vllm:num_requests_running", 7, seconds=5)
    shard.wish = protocol.LeaseAction.CANCEL
    await control_plane.until(lambda: shard.state == "failed", seconds=2)
    await node.metric_becomes("vllm:num_requests_running", 0, seconds=0.5)
    assert [failure["code"] for failure in shard.failures] == ["cancelled"]
    assert list(shard.results) == [1]


async def test_a_pause_gives_the_lease_back_and_keeps_what_has_finished(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat("quick")] + [chat(SLOW) for _ in range(7)])
    node = await start_node()
    await node.metric_becomes("vllm:num_requests_running", 7, seconds=5)
    control_plane.orders_drain = True  # or it would be leased again at once
    shard.wish = protocol.LeaseAction.PAUSE
    await control_plane.until(lambda: shard.failures != [], seconds=2)
    await node.metric_becomes("vllm:num_requests_running", 0, seconds=0.5)
    assert shard.failures == [{"code": "paused", "message": "paused on request", "retryable": True}]
    assert list(shard.results) == [1]


async def test_an_order_for_a_lease_that_is_not_held_is_ignored(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    node = await start_node()
    orders = protocol.NodeOrders(leases={"lease_9": protocol.LeaseAction.CANCEL})
    node.runner.obey(orders, reported=protocol.ModelState.READY)
    shard = control_plane.add(MODEL, [chat("quick")])
    await control_plane.until(lambda: shard.state == "completed")


async def test_no_work_is_asked_for_before_the_control_plane_knows_that_the_model_is_ready(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    control_plane.report_error = 503, "unavailable"
    shard = control_plane.add(MODEL, [chat("quick")])
    await start_node()
    await control_plane.until(lambda: len(control_plane.reports) >= 3)
    assert (control_plane.count("leases"), shard.state) == (0, "queued")
    control_plane.report_error = None
    await control_plane.until(lambda: shard.state == "completed")


async def test_organisations_share_the_engine_by_weight_whoever_came_first(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    big = control_plane.add(MODEL, [chat(f"big {row}") for row in range(400)], organization_id="org_a")
    await start_node(max_in_flight=12, latency_ms=100)
    await control_plane.until(lambda: len(big.results) > 0)
    small = control_plane.add(MODEL, [chat(f"small {row}") for row in range(32)], organization_id="org_b", weight=3)
    before = len(big.results)
    await control_plane.until(lambda: small.state == "completed")
    assert big.state == "leased"
    # 32 rows at 9 of 12 places take four rounds of 100 ms, in which the 3 others answer 12; the rest is claiming.
    assert len(big.results) - before < 120
    lines = [line for line in control_plane.answered_lines if line > 400]
    assert lines == sorted(lines)  # within an organisation in the order of the file


async def test_of_a_small_organisation_no_row_waits_for_the_big_ones_shards(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    big = [
        control_plane.add(MODEL, [chat(f"big {shard} {row}") for row in range(100)], organization_id="org_a")
        for shard in range(3)
    ]
    node = await start_node(max_in_flight=4, latency_ms=50)
    await control_plane.until(lambda: len(big[0].results) > 0)
    small = control_plane.add(MODEL, [chat("small")], organization_id="org_b")
    node.runner.wake()
    await control_plane.until(lambda: small.state == "completed", seconds=1)
    assert [shard.state for shard in big] == ["leased", "queued", "queued"]  # nothing more of the big one is held


async def test_rows_of_many_organisations_are_not_hoarded(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shards = [control_plane.add(MODEL, [chat(SLOW)] * 20, organization_id=f"org_{number}") for number in range(12)]
    node = await start_node(max_in_flight=4)
    node.runner.poll_seconds = 0.01
    await control_plane.until(lambda: [shard.state for shard in shards].count("leased") == batch.MAX_ORGANIZATIONS)
    reports = len(control_plane.reports)
    await control_plane.until(lambda: len(control_plane.reports) > reports + 3)
    assert [shard.state for shard in shards].count("queued") == 12 - batch.MAX_ORGANIZATIONS


async def test_batch_rows_make_room_while_others_wait_for_the_engine_and_come_back(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "WATCH_SECONDS", 0.05)
    add_shards(control_plane, 5, 400)
    command = (*stand_in_command(100), "--max-num-seqs", "8")
    node = await start_node(max_in_flight=8, command=command)
    await control_plane.until(lambda: control_plane.reports[-1]["models"][0]["in_flight"] == 8)
    server = await node.engine.wait_until_ready()
    body = orjson.dumps(chat(SLOW))
    others = [
        asyncio.create_task(server._session.post("/v1/chat/completions", data=body))  # not as our own rows
        for _ in range(6)
    ]
    await control_plane.until(lambda: control_plane.reports[-1]["models"][0]["in_flight_limit"] == 4)
    await control_plane.until(lambda: control_plane.reports[-1]["models"][0]["in_flight"] == 4)
    for other in others:
        other.cancel()
    await control_plane.until(lambda: control_plane.reports[-1]["models"][0]["in_flight_limit"] == 8)


async def test_the_throughput_is_reported(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    (shard,) = add_shards(control_plane, 1, 80)
    await start_node(max_in_flight=8, latency_ms=100)
    await control_plane.until(lambda: control_plane.reports != [])
    assert control_plane.reports[0]["models"][0]["tokens_per_second"] == 0
    await control_plane.until(lambda: shard.state == "completed")
    reports = len(control_plane.reports)
    await control_plane.until(lambda: len(control_plane.reports) > reports + 1)
    # 8 tokens a row, 8 rows in 100 ms and what this machine needs for them.
    assert 100 < control_plane.reports[-1]["models"][0]["tokens_per_second"] <= 640


async def test_slow_rows_are_committed_a_few_at_a_time_and_the_last_one_at_once(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat(f"row {row}") for row in range(3)] + [chat(SLOW)], row_timeout_seconds=3)
    node = await start_node(max_in_flight=1, latency_ms=900)
    await node.metric_becomes("stand_in:requests_finished_total", 3, seconds=10)
    await control_plane.until(control_plane.all_done, seconds=5)
    assert shard.results[4]["error"]["code"] == "request_timeout"
    assert len(control_plane.segment_sizes) == 4  # at a quarter of 900 ms none waits for the next


async def test_one_poisonous_row_among_200_costs_a_few_engines_and_no_other_row(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.05)
    shard = control_plane.add(MODEL, [chat(DIE if row == 137 else f"row {row}") for row in range(200)])
    node = await start_node(max_in_flight=64, latency_ms=20)
    deaths: list[str] = []
    node.engine.on_change(lambda: deaths.append(node.engine.message) if node.engine.message else None)
    await control_plane.until(control_plane.all_done, seconds=120)
    assert [line for line, result in shard.results.items() if result["error"]] == [138]
    assert len(shard.results) == 200
    assert shard.epoch == 1
    assert 3 <= len(deaths) <= 8


async def test_an_engine_that_dies_of_everything_is_left_alone_and_its_leases_are_given_back(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.01)
    shards = [control_plane.add(MODEL, [chat(DIE)] * 5) for _ in range(2)]
    node = await start_node(max_in_flight=8)
    await control_plane.until(lambda: all(shard.failures for shard in shards), seconds=60)
    report = control_plane.reports[-1]["models"][0]
    await control_plane.until(lambda: control_plane.reports[-1]["models"][0]["state"] == "failed")
    report = control_plane.reports[-1]["models"][0]
    assert re.fullmatch(r"died 6 times within \d+ s: .+", report["message"])
    failures = [failure for shard in shards for failure in shard.failures]
    assert failures[0] == {
        "code": "engine_unavailable",
        "message": f"the engine of this model {report['message']}",
        "retryable": True,
    }
    claims = control_plane.count("leases")
    reports = len(control_plane.reports)
    await control_plane.until(lambda: len(control_plane.reports) > reports + 5)
    assert control_plane.count("leases") == claims
    assert node.engine.server is None


async def test_rows_of_a_killed_engine_are_answered_by_the_next(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shards = add_shards(control_plane, 3, 20)
    node = await start_node(max_in_flight=16, latency_ms=150)
    await control_plane.until(lambda: len(shards[0].results) >= 16)
    server = await node.engine.wait_until_ready()
    os.kill(server.pid, signal.SIGKILL)
    await control_plane.until(control_plane.all_done)
    assert sum(len(shard.results) for shard in shards) == 60
    assert all(result["status"] == 200 for shard in shards for result in shard.results.values())
    assert [shard.epoch for shard in shards] == [1, 1, 1]  # the leases were kept meanwhile


async def test_a_sick_engine_is_replaced_and_its_poison_fails_alone(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.05)
    shard = control_plane.add(MODEL, [chat(SICK if row == 3 else f"row {row}") for row in range(8)])
    await start_node(latency_ms=20)
    await control_plane.until(control_plane.all_done, seconds=60)
    assert shard.results[4]["error"]["code"] == "worker_failure"
    assert [line for line, result in shard.results.items() if result["error"]] == [4]


async def test_a_row_that_kills_the_process_fails_alone(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 0.05)
    shard = control_plane.add(MODEL, [chat(DIE if row == 13 else f"row {row}") for row in range(16)])
    await start_node(max_in_flight=16, latency_ms=50)
    await control_plane.until(control_plane.all_done, seconds=60)
    assert [line for line, result in shard.results.items() if result["error"]] == [14]
    assert shard.results[14]["error"]["code"] == "worker_failure"


async def test_leases_without_an_engine_are_given_back(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ENGINE_ABSENCE_SECONDS", 0.5)
    monkeypatch.setattr("inference_workers.engine.BACK_OFF_SECONDS", 600.0)
    shard = control_plane.add(MODEL, [chat(SLOW)])
    node = await start_node()
    await node.metric_becomes("vllm:num_requests_running", 1, seconds=5)
    os.kill((await node.engine.wait_until_ready()).pid, signal.SIGKILL)
    await control_plane.until(lambda: shard.failures != [])
    assert shard.failures == [
        {"code": "engine_unavailable", "message": "the node has no engine for this model", "retryable": True}
    ]


async def test_a_control_plane_that_is_away_for_seconds_costs_nothing(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shards = add_shards(control_plane, 2, 60)
    node = await start_node(max_in_flight=8, latency_ms=30)
    await control_plane.until(lambda: len(shards[0].results) >= 8)
    await control_plane.stop()
    await asyncio.sleep(2.5)
    assert await node.metric("stand_in:requests_finished_total") >= 60  # the engine went on with what was there
    await control_plane.start()
    await control_plane.until(control_plane.all_done)
    assert await node.metric("stand_in:requests_finished_total") == 120


async def test_a_row_that_takes_too_long_fails_alone_and_is_aborted(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat(SLOW), chat("quick")], row_timeout_seconds=0.5)
    node = await start_node()
    await control_plane.until(control_plane.all_done)
    assert shard.results[1]["error"] == {
        "code": "request_timeout",
        "message": "The request was not answered within 0.5 seconds.",
    }
    assert shard.results[1]["status"] is None
    assert shard.results[2]["status"] == 200
    assert await node.metric("stand_in:requests_aborted_total") == 1


async def test_an_engines_refusal_is_a_result(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    shard = control_plane.add(MODEL, [{"model": MODEL}, chat("ok", model="unknown"), chat("ok")])
    await start_node()
    await control_plane.until(control_plane.all_done)
    assert [shard.results[line]["status"] for line in (1, 2, 3)] == [400, 404, 200]
    assert shard.results[1]["body"]["error"]["code"] == 400


@pytest.mark.parametrize("magic", [BROKEN, GARBLED])
async def test_a_well_engine_that_fails_one_row_is_asked_a_few_times(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch, magic: str
) -> None:
    monkeypatch.setattr("inference_workers.rows.FIRST_RETRY_SECONDS", 0.01)
    shard = control_plane.add(MODEL, [chat(magic), chat("quick")])
    await start_node()
    await control_plane.until(control_plane.all_done)
    assert shard.results[1]["error"]["code"] == "worker_failure"
    assert shard.results[2]["status"] == 200


async def test_a_row_that_waits_for_another_try_when_the_engine_dies_is_not_lost(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference_workers.rows.FIRST_RETRY_SECONDS", 0.15)
    shard = control_plane.add(MODEL, [chat(BROKEN)])
    node = await start_node()
    await control_plane.until(lambda: shard.beats > 0)
    os.kill((await node.engine.wait_until_ready()).pid, signal.SIGKILL)
    await control_plane.until(control_plane.all_done)
    assert shard.results[1]["error"]["code"] == "worker_failure"


async def test_a_grant_that_makes_no_sense_is_given_back(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shard = control_plane.add(MODEL, [chat("x")], row_timeout_seconds="soon")
    await start_node()
    await control_plane.until(lambda: shard.failures != [])
    shard.row_timeout_seconds = 5
    await control_plane.until(control_plane.all_done)
    assert shard.failures[0]["message"] == "ShardWork.row_timeout_seconds must be a float, not str"


async def test_an_empty_lease_is_completed(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    control_plane.add(MODEL, [])
    await start_node()
    await control_plane.until(control_plane.all_done)
    assert control_plane.segment_sizes == []


async def test_a_draining_node_finishes_what_it_holds_and_leases_nothing(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    first, second = add_shards(control_plane, 2, 12)
    await start_node(max_in_flight=8, latency_ms=1000)
    await control_plane.until(lambda: first.state == "leased")
    control_plane.orders_drain = True
    await control_plane.until(lambda: first.state == "completed")
    await asyncio.sleep(0.3)
    assert second.state == "queued"
    control_plane.orders_drain = False
    await control_plane.until(control_plane.all_done)


async def test_a_bell_is_heard_while_all_rows_are_slow(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    big = control_plane.add(MODEL, [chat(SLOW)] * 20, organization_id="org_a")
    node = await start_node(max_in_flight=4)
    await control_plane.until(lambda: big.state == "leased")
    await control_plane.until(lambda: control_plane.count("leases") >= 2)  # asked for others', in vain
    node.runner.poll_seconds = 3600
    small = control_plane.add(MODEL, [chat("small")], organization_id="org_b")
    node.runner.wake()
    await control_plane.until(lambda: small.state == "leased", seconds=1)


async def test_a_bell_saves_the_poll_interval(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    node = await start_node()
    node.runner.poll_seconds = 3600
    await asyncio.sleep(0.3)  # now it waits for an hour
    (shard,) = add_shards(control_plane, 1, 1)
    node.runner.wake()
    await control_plane.until(lambda: shard.state == "completed", seconds=2)


async def test_a_stopped_runner_commits_and_gives_back(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    shard = control_plane.add(MODEL, [chat("quick"), chat(SLOW)])
    node = await start_node()
    await node.metric_becomes("stand_in:requests_finished_total", 1, seconds=5)
    await node.runner.stop(5)
    assert shard.failures == [{"code": "node_stopped", "message": "the node was stopped", "retryable": True}]
    assert list(shard.results) == [1]
