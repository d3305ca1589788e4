"""The wire contract survives the wire."""

import json
from typing import Any

import pytest

from inference_workers import protocol
from inference_workers.protocol import MessageError, decode, encode

GRANT = protocol.LeaseGrant(
    id="lease_1",
    token="t",
    epoch=3,
    kind=protocol.LeaseKind.BATCH_SHARD,
    model="m",
    organization_id="org_1",
    weight=2,
    lease_seconds=10.0,
    estimated_tokens=5,
    deadline_at=1.5,
    work={"batch_id": "batch_1"},
)
MESSAGES: list[Any] = [
    GRANT,
    protocol.NodeHello(protocol=1, name="n", incarnation="i", software={"vllm": "1"}, hardware={"gpus": []}),
    protocol.NodeReport(
        incarnation="i",
        models=[protocol.ModelReport(name="m", state=protocol.ModelState.READY, in_flight=3, tokens_per_second=7.5)],
        leases=[protocol.HeldLease(id="lease_1", epoch=3, rows_in_flight=2)],
    ),
    protocol.LeaseRequest(incarnation="i", kinds=[protocol.LeaseKind.BATCH_SHARD], models=["m"]),
    protocol.RowResult(line=1, request_id="req_1", status=200, body={"choices": [{"text": "é"}]}),
    protocol.RowResult(line=2, error=protocol.RowError(code="request_timeout", message="late")),
    protocol.NodeOrders(leases={"lease_1": protocol.LeaseAction.PAUSE, "lease_2": protocol.LeaseAction.LOST}),
    protocol.LeaseFailure(code="c", message="m", retryable=False),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Any) -> None:
    assert decode(type(message), json.loads(json.dumps(encode(message)))) == message


def test_a_newer_side_may_say_more() -> None:
    assert decode(protocol.NodeOrders, {"drain": True, "sing": True}) == protocol.NodeOrders(drain=True)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (protocol.NodeHello, [], "NodeHello must be a JSON object, not list"),
        (protocol.WorkRow, {"line": 1}, "WorkRow.body is missing"),
        (protocol.WorkRow, {"line": "1", "body": {}}, "WorkRow.line must be a int, not str"),
        (protocol.WorkRow, {"line": True, "body": {}}, "WorkRow.line must be a int, not bool"),
        (
            protocol.NodeOrders,
            {"leases": {"lease_1": "sing"}},
            "NodeOrders.leases.lease_1 must be one of continue, cancel, pause, lost",
        ),
        (
            protocol.NodeReport,
            {"incarnation": "i", "models": [{"name": "m", "state": "ready", "in_flight": None}]},
            "ModelReport.in_flight must be a int, not NoneType",
        ),
    ],
)
def test_a_wrong_message_names_the_field(kind: type, value: object, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode(kind, value)
