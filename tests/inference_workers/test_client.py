"""What the agent makes of the control plane's answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference_workers import client, protocol
from inference_workers.client import ControlPlane
from tests.inference_workers.conftest import MODEL, chat
from tests.inference_workers.control_plane import TOKEN, FakeControlPlane

HELLO = protocol.NodeHello(protocol=protocol.PROTOCOL_VERSION, name="n", incarnation="i")
REQUEST = protocol.LeaseRequest(incarnation="i", kinds=[protocol.LeaseKind.BATCH_SHARD], models=[MODEL])


@pytest.fixture
async def caller(control_plane: FakeControlPlane) -> AsyncIterator[ControlPlane]:
    caller = ControlPlane(control_plane.url, TOKEN)
    yield caller
    await caller.close()


async def lease(caller: ControlPlane) -> protocol.LeaseGrant:
    grant = await caller.request_lease("node_1", REQUEST)
    assert grant is not None
    return grant


async def test_hello_waits_for_the_control_plane(control_plane: FakeControlPlane, caller: ControlPlane) -> None:
    control_plane.down = True
    hello = asyncio.create_task(caller.hello(HELLO))
    await control_plane_calls(control_plane, 2)
    control_plane.down = False
    assert (await hello).node_id == "node_1"


async def control_plane_calls(control_plane: FakeControlPlane, count: int) -> None:
    async with asyncio.timeout(5):
        while len(control_plane.calls) < count:  # noqa: ASYNC110  # also calls that are refused count
            await asyncio.sleep(0.01)


async def test_no_work_is_none(caller: ControlPlane) -> None:
    assert await caller.request_lease("node_1", REQUEST) is None


async def test_a_lease_is_asked_for_once(control_plane: FakeControlPlane, caller: ControlPlane) -> None:
    control_plane.down = True
    with pytest.raises(client.Unavailable, match="503"):
        await caller.request_lease("node_1", REQUEST)
    assert control_plane.count("leases") == 1


async def test_a_refused_token_is_said_clearly_and_tried_again_slowly(
    control_plane: FakeControlPlane, caller: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane.token = "another"
    with pytest.raises(client.Unauthorized, match="does not accept the worker token"):
        await caller.request_lease("node_1", REQUEST)
    monkeypatch.setattr(client, "UNAUTHORIZED_RETRY_SECONDS", 0.01)
    hello = asyncio.create_task(caller.hello(HELLO))
    await control_plane_calls(control_plane, 3)
    control_plane.token = TOKEN
    assert (await hello).node_id == "node_1"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (426, "protocol_unsupported", client.ProtocolUnsupported),
        (409, "node_replaced", client.NodeReplaced),
        (404, "not_found", client.NodeUnknown),
        (400, "bad", client.ControlPlaneError),
    ],
)
async def test_an_answer_becomes_its_exception(
    control_plane: FakeControlPlane,
    caller: ControlPlane,
    status: int,
    code: str,
    error: type[client.ControlPlaneError],
) -> None:
    control_plane.hello_error = status, code
    with pytest.raises(error) as caught:
        await caller.hello(HELLO)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert control_plane.count("nodes") == 1


async def test_a_stolen_lease_is_lost_to_every_call(control_plane: FakeControlPlane, caller: ControlPlane) -> None:
    shard = control_plane.add(MODEL, [chat("hello")])
    grant = await lease(caller)
    control_plane.steal(shard)
    failure = protocol.LeaseFailure(code="c", message="m")
    calls: list[Any] = [
        caller.read_input(grant),
        caller.put_segment(grant, 0, b'{"line": 1}\n'),
        caller.complete(grant),
        caller.fail(grant, failure),
    ]
    for call in calls:
        with pytest.raises(client.LeaseLost):
            await call
    assert shard.results == {}


async def test_other_bytes_under_a_number_are_a_conflict(control_plane: FakeControlPlane, caller: ControlPlane) -> None:
    control_plane.add(MODEL, [chat("hello")])
    grant = await lease(caller)
    content = b'{"line": 1, "request_id": "r", "status": 200, "body": {}}\n'
    await caller.put_segment(grant, 0, content)
    await caller.put_segment(grant, 0, content)
    with pytest.raises(client.SegmentConflict):
        await caller.put_segment(grant, 0, content.replace(b'"r"', b'"s"'))
    assert control_plane.violations == ["lease_1 segment 0 came again with other bytes"]
    control_plane.violations.clear()


async def test_an_early_complete_misses_rows(control_plane: FakeControlPlane, caller: ControlPlane) -> None:
    control_plane.add(MODEL, [chat("hello")])
    grant = await lease(caller)
    with pytest.raises(client.RowsMissing):
        await caller.complete(grant)
    control_plane.violations.clear()


async def test_an_answer_that_is_no_message_is_an_error(control_plane: FakeControlPlane) -> None:
    caller = ControlPlane(control_plane.url, TOKEN)
    with pytest.raises(client.ControlPlaneError, match="is not a NodeWelcome"):
        client._decode(protocol.NodeWelcome, b"<html>")
    await caller.close()
