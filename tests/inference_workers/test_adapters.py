"""Adapters on a node's disk, and loaded in its engine beside the base model: whose rows are answered by what."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from inference_workers import adapter_slots, protocol
from inference_workers.adapters import AdapterDamaged, AdapterStore, write_zero_adapter
from inference_workers.client import ControlPlane, LeaseLost
from inference_workers.config import LoraConfig
from inference_workers.protocol import ADAPTER_WEIGHTS, AdapterRef, LeaseKind
from tests.inference_workers.conftest import MODEL, Node, StartNode, chat
from tests.inference_workers.control_plane import TOKEN, FakeControlPlane, Shard
from tests.support.adapter_files import MODULES, adapter_contents, distinct_contents, reference
from tests.support.stand_in_engine import FATAL, IDLE, REFUSED, SLOW, answer_to

LORA = LoraConfig(max_loras=4, max_rank=16)


def numbers(contents: dict[str, bytes]) -> str:
    """What the stand-in answers with when it applies these weights."""
    content = contents[ADAPTER_WEIGHTS]
    return sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def add(control_plane: FakeControlPlane, name: str, rows: int = 4, **options: Any) -> Shard:
    """Work on an adapter."""
    files = options.pop("files", None) or distinct_contents(name, **options.pop("config", {}))
    bodies = [chat(f"{name} row {row}") | {"model": name} for row in range(rows)]
    return control_plane.add(MODEL, bodies, adapter=reference(name, files), files=files, **options)


def add_base(control_plane: FakeControlPlane, rows: int = 4, **options: Any) -> Shard:
    return control_plane.add(MODEL, [chat(f"base row {row}") for row in range(rows)], **options)


def add_canary(control_plane: FakeControlPlane, name: str, **config: Any) -> Shard:
    return add(control_plane, name, rows=0, kind=LeaseKind.CANARY, config=config)


def answered_as_it_should(shard: Shard) -> None:
    """Every row by the model that it asked for, as that model alone would answer it."""
    weights = numbers(shard.files) if shard.adapter else ""
    assert sorted(shard.results) == sorted(shard.rows)
    for line, body in shard.rows.items():
        answer = shard.results[line]["body"]
        assert answer["model"] == body["model"]
        assert answer["choices"][0]["message"]["content"] == answer_to(weights + body["messages"][0]["content"], 4)


async def loaded(node: Node) -> list[str]:
    """What the engine knows by name, its base model apart."""
    server = await node.engine.wait_until_ready()
    async with server._session.get("/v1/models") as response:
        return [entry["id"] for entry in (await response.json())["data"]][1:]


async def test_adapters_of_several_organisations_and_the_base_are_mixed_in_one_engine(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    shards = [
        add(control_plane, "ft:a", 60, organization_id="org_1"),
        add(control_plane, "ft:b", 60, organization_id="org_2"),
        add_base(control_plane, 60, organization_id="org_3"),
    ]
    node = await start_node(lora=LORA, max_in_flight=12, latency_ms=150)
    await control_plane.until(control_plane.all_done)
    for shard in shards:
        answered_as_it_should(shard)
    assert sorted(await loaded(node)) == ["ft:a", "ft:b"]
    places = [[control_plane.answered_lines.index(line) for line in shard.rows] for shard in shards]
    assert max(map(min, places)) < min(map(max, places))  # side by side, not one after the other


async def test_the_base_is_never_answered_by_an_adapter_however_many_have_been_loaded(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    node = await start_node(lora=LORA)
    for number in range(12):
        shards = [add(control_plane, f"ft:{number % 7}"), add_base(control_plane)]
        await control_plane.until(control_plane.all_done)
        for shard in shards:
            answered_as_it_should(shard)
        assert len([name for name in await loaded(node) if name.startswith("ft:")]) <= 3


async def test_more_adapters_than_slots_take_turns(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_slots, "TURN_SECONDS", 0.3)
    shards = [add(control_plane, f"ft:{number}", 30, organization_id=f"org_{number}") for number in range(5)]
    await start_node(lora=LoraConfig(max_loras=3, max_rank=8), max_in_flight=100, latency_ms=100)
    await control_plane.until(control_plane.all_done, seconds=30)
    for shard in shards:
        answered_as_it_should(shard)


async def test_an_adapter_that_is_in_use_keeps_its_slot(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_slots, "TURN_SECONDS", 0.1)
    busy = add(control_plane, "ft:busy", 1)
    busy.rows = {line: chat(SLOW) | {"model": "ft:busy"} for line in busy.rows}
    node = await start_node(lora=LoraConfig(max_loras=2, max_rank=8))
    await node.metric_becomes("vllm:num_requests_running", 1, seconds=5)
    waiting = add(control_plane, "ft:waiting", organization_id="org_2")
    base = add_base(control_plane, organization_id="org_3")
    await control_plane.until(lambda: base.state == "completed")
    assert (waiting.state, await loaded(node)) == ("leased", ["ft:busy"])
    busy.wish = protocol.LeaseAction.CANCEL
    await control_plane.until(lambda: waiting.state == "completed")
    answered_as_it_should(waiting)
    assert "ft:busy" not in await loaded(node)


async def test_a_new_engine_gets_its_adapters_again(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    node = await start_node(lora=LORA)
    before = add(control_plane, "ft:a")
    await control_plane.until(control_plane.all_done)
    server = await node.engine.wait_until_ready()
    os.kill(server.pid, signal.SIGKILL)
    after = add(control_plane, "ft:a", 8)
    await control_plane.until(control_plane.all_done, seconds=30)
    for shard in (before, after):
        answered_as_it_should(shard)
    assert control_plane.count(ADAPTER_WEIGHTS) == 1  # from the disk the second time


async def test_an_adapter_that_the_engine_refuses_goes_back_with_the_engines_words(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    refused = add(control_plane, "ft:a", config={"stand_in": REFUSED})
    base = add_base(control_plane, organization_id="org_2")
    await start_node(lora=LORA)
    await control_plane.until(lambda: bool(refused.failures) and base.state == "completed")
    refused.state = "failed"
    assert refused.failures[0] == {
        "code": "adapter_refused",
        "message": "LoRA rank 999 is greater than max_lora_rank 16.",
        "retryable": True,
    }
    answered_as_it_should(base)


async def test_an_adapter_that_kills_the_engine_is_given_up(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    fatal = add(control_plane, "ft:a", config={"stand_in": FATAL})
    await start_node(lora=LORA)
    await control_plane.until(lambda: bool(fatal.failures), seconds=40)
    fatal.state = "failed"
    assert fatal.failures[-1]["message"] == "the engine died every time it loaded the adapter"
    base = add_base(control_plane)
    await control_plane.until(lambda: base.state == "completed", seconds=40)
    answered_as_it_should(base)


async def test_a_damaged_adapter_is_not_loaded_and_leaves_nothing_behind(
    control_plane: FakeControlPlane, start_node: StartNode, tmp_path: Path
) -> None:
    shard = add(control_plane, "ft:a")
    shard.files = shard.files | {ADAPTER_WEIGHTS: shard.files[ADAPTER_WEIGHTS][:-1] + b"x"}
    await start_node(lora=LORA)
    await control_plane.until(lambda: bool(shard.failures))
    shard.state = "failed"
    assert shard.failures[0]["code"] == "adapter_damaged"
    assert list((tmp_path / "adapters").iterdir()) == []


async def test_a_deleted_adapter_is_forgotten_by_the_engine(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    node = await start_node(lora=LORA)
    shards = [add(control_plane, "ft:a"), add(control_plane, "ft:b")]
    await control_plane.until(control_plane.all_done)
    assert shards[0].adapter is not None
    await node.runner.drop_adapters([shards[0].adapter.address])
    assert await loaded(node) == ["ft:b"]
    again = add(control_plane, "ft:a")
    await control_plane.until(control_plane.all_done)
    answered_as_it_should(again)


async def test_an_engine_without_room_for_adapters_asks_for_none(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    tuned, base = add(control_plane, "ft:a"), add_base(control_plane, organization_id="org_2")
    await start_node()
    await control_plane.until(lambda: base.state == "completed")
    assert tuned.state == "queued"


async def test_a_good_adapter_passes_the_canary(control_plane: FakeControlPlane, start_node: StartNode) -> None:
    canary, base = add_canary(control_plane, "ft:a"), add_base(control_plane, 20, organization_id="org_2")
    node = await start_node(lora=LORA)
    await control_plane.until(control_plane.all_done)
    assert canary.failures == []
    answered_as_it_should(base)
    assert await loaded(node) == ["ft:a"]


@pytest.mark.parametrize(
    ("config", "reason"), [({"stand_in": IDLE}, "it answers as the base model does"), ({"stand_in": REFUSED}, "rank")]
)
async def test_an_adapter_that_may_not_be_served_is_refused_for_good(
    control_plane: FakeControlPlane, start_node: StartNode, config: dict[str, str], reason: str
) -> None:
    canary = add_canary(control_plane, "ft:a", **config)
    await start_node(lora=LORA)
    await control_plane.until(lambda: canary.state == "failed")
    (failure,) = canary.failures
    assert (failure["code"], failure["retryable"]) == ("canary_refused", False)
    assert reason in failure["message"]


async def test_an_engine_that_answers_the_base_with_the_adapter_is_found_out(
    control_plane: FakeControlPlane, start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One slot, and it is the last one: what the agent would never do.
    monkeypatch.setattr("inference_workers.config.ModelConfig.adapter_slots", 1)
    canary = add_canary(control_plane, "ft:a")
    await start_node(lora=LoraConfig(max_loras=1, max_rank=8))
    await control_plane.until(lambda: bool(canary.failures))
    canary.state = "failed"
    assert (canary.failures[0]["code"], canary.failures[0]["retryable"]) == ("engine_unsound", True)


async def test_a_canary_ends_at_once_when_it_is_not_wanted_any_more(
    control_plane: FakeControlPlane, start_node: StartNode
) -> None:
    canary = add_canary(control_plane, "ft:a")
    canary.wish = protocol.LeaseAction.CANCEL
    await start_node(lora=LORA, latency_ms=60_000)
    await control_plane.until(lambda: canary.state == "failed", seconds=5)
    assert canary.failures[0]["code"] == "cancelled"


@pytest.fixture
async def client(control_plane: FakeControlPlane) -> AsyncIterator[ControlPlane]:
    client = ControlPlane(control_plane.url, TOKEN)
    yield client
    await client.close()


async def grant_of(client: ControlPlane, kind: LeaseKind = LeaseKind.TUNED_SHARD) -> protocol.LeaseGrant:
    request = protocol.LeaseRequest(incarnation="test", kinds=[kind], models=[MODEL])
    grant = await client.request_lease("node_1", request)
    assert grant is not None
    return grant


async def fetch(control_plane: FakeControlPlane, client: ControlPlane, store: AdapterStore, name: str) -> AdapterRef:
    """Bring an adapter here, in a lease of its own."""
    shard = add(control_plane, name)
    assert shard.adapter is not None
    await store.fetch(client, await grant_of(client), shard.adapter)
    shard.state = "completed"
    return shard.adapter


async def test_the_least_used_adapters_make_room_and_what_is_held_stays(
    control_plane: FakeControlPlane, client: ControlPlane, tmp_path: Path
) -> None:
    size = sum(map(len, distinct_contents("ft:a").values()))
    store = AdapterStore(tmp_path / "adapters", max_bytes=3 * size + 10)
    a, b, c = [await fetch(control_plane, client, store, f"ft:{name}") for name in "abc"]
    store.hold(a)
    await fetch(control_plane, client, store, "ft:b")  # used again, from the disk
    d = await fetch(control_plane, client, store, "ft:d")
    assert store.addresses == [a.address, b.address, d.address]
    assert control_plane.count(ADAPTER_WEIGHTS) == 4
    store.release(a)
    e = await fetch(control_plane, client, store, "ft:e")
    assert store.addresses == [b.address, d.address, e.address]
    assert (store.folder_of(c).exists(), store.folder_of(e).exists()) == (False, True)


async def test_what_was_deleted_goes_when_it_is_let_go_of(
    control_plane: FakeControlPlane, client: ControlPlane, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "adapters", max_bytes=10**6)
    a, b = [await fetch(control_plane, client, store, f"ft:{name}") for name in "ab"]
    store.hold(a)
    store.drop([a.address, b.address, "never-here"])
    assert store.addresses == [a.address]
    store.release(a)
    assert store.addresses == []


async def test_the_same_bytes_are_kept_once_and_brought_once(
    control_plane: FakeControlPlane, client: ControlPlane, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "adapters", max_bytes=10**6)
    files = distinct_contents("x")
    shards = [add(control_plane, name, files=files) for name in ("ft:a", "ft:b")]
    grants = [await grant_of(client) for _ in shards]
    adapters = [shard.adapter for shard in shards if shard.adapter]
    await asyncio.gather(*(store.fetch(client, *pair) for pair in zip(grants, adapters, strict=True)))
    assert (len(store.addresses), control_plane.count(ADAPTER_WEIGHTS)) == (1, 1)


async def test_a_half_brought_adapter_is_none(control_plane: FakeControlPlane, tmp_path: Path) -> None:
    (tmp_path / "adapters" / "abc.partial").mkdir(parents=True)
    assert AdapterStore(tmp_path / "adapters", max_bytes=10).addresses == []
    assert list((tmp_path / "adapters").iterdir()) == []


BAD_REFERENCES = {
    "a file too many": (adapter_contents() | {"../../evil.py": b"x"}, 10**6, "and no others"),
    "a file too few": ({ADAPTER_WEIGHTS: b"x"}, 10**6, "and no others"),
    "too large": (adapter_contents(), 100, "this node keeps adapters of 100"),
}


@pytest.mark.parametrize("name", BAD_REFERENCES)
async def test_what_no_adapter_should_be_is_not_brought(
    control_plane: FakeControlPlane, client: ControlPlane, tmp_path: Path, name: str
) -> None:
    files, most, reason = BAD_REFERENCES[name]
    store = AdapterStore(tmp_path / "adapters", max_bytes=most)
    shard = add(control_plane, "ft:a", files=files)
    assert shard.adapter is not None
    with pytest.raises(AdapterDamaged, match=reason):
        await store.fetch(client, await grant_of(client), shard.adapter)
    assert list((tmp_path / "adapters").iterdir()) == []


async def test_a_lost_lease_brings_nothing(
    control_plane: FakeControlPlane, client: ControlPlane, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path / "adapters", max_bytes=10**6)
    shard = add(control_plane, "ft:a")
    assert shard.adapter is not None
    grant = await grant_of(client)
    control_plane.steal(shard)
    with pytest.raises(LeaseLost):
        await store.fetch(client, grant, shard.adapter)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_the_adapter_of_zeros_is_an_adapter_and_changes_nothing(tmp_path: Path) -> None:
    folder = write_zero_adapter(tmp_path / "zeros", MODULES)
    content = (folder / ADAPTER_WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert {name: entry["shape"] for name, entry in header.items()} == {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": [1, 8],
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": [8, 1],
    }
    assert content[8 + length :] == bytes(64)
