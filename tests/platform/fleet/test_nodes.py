"""Nodes: who they are, what they report, when they are refused."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from fleet.selectors import node_tokens_per_second
from fleet.services import set_draining
from inference_workers.protocol import PROTOCOL_VERSION
from tests.support.cast import MODEL, Cast
from tests.support.facts import change, count, query_owner
from tests.support.rows import jsonl, line, submit
from tests.support.worker import Grant, Worker, run_control

pytestmark = pytest.mark.usefixtures("cast")


NO_TRAINING = {"trains": False, "training_tokens_per_second": 0.0}
NOTHING_YET = {"in_flight": 0, "in_flight_limit": 0, "tokens_per_second": 0.0, "message": "", **NO_TRAINING}


def hello(**changes: Any) -> dict[str, Any]:
    return {"protocol": PROTOCOL_VERSION, "name": "node-1", "incarnation": "one", **changes}


def test_a_node_is_welcomed_and_told_the_rhythm() -> None:
    worker = Worker()
    welcome = worker.hello().json()
    assert welcome == {
        "node_id": worker.node_id,
        "heartbeat_seconds": 1.0,
        "lease_seconds": 15.0,
        "poll_seconds": 2.0,
    }
    assert query_owner("SELECT name, protocol, is_draining FROM fleet_node") == [("node-1", PROTOCOL_VERSION, False)]
    assert worker.call("GET", "nodes/node-1").json() == {
        "name": "node-1",
        "state": "active",
        "models": [{"name": "little", "state": "starting", **NOTHING_YET}],
    }


def test_a_report_is_kept_and_answered_with_orders() -> None:
    worker = Worker()
    change("UPDATE fleet_node SET last_seen_at = now() - interval '1 hour'")
    answer = worker.report(in_flight=3, in_flight_limit=64, tokens_per_second=71.5, not_yet_known=1)
    assert (answer.status_code, answer.json()) == (200, {"drain": False, "leases": {}})
    assert worker.call("GET", "nodes/node-1").json()["models"] == [
        {
            "name": "little",
            "state": "ready",
            "in_flight": 3,
            "in_flight_limit": 64,
            "tokens_per_second": 71.5,
            "message": "",
            **NO_TRAINING,
        }
    ]
    assert query_owner("SELECT now() - last_seen_at < interval '1 minute' FROM fleet_node") == [(True,)]


OTHER_PROTOCOLS: list[dict[str, Any]] = [
    hello(protocol=PROTOCOL_VERSION + 1),
    hello(protocol=0),
    {"protocol": 99, "hello_in_a_shape": ["of the future"]},
    {"protocol": "1"},
    {"name": "older than the field itself"},
    {},
]


def test_a_node_of_another_protocol_is_told_so_whatever_its_hello_looks_like() -> None:
    worker = Worker()
    for message in OTHER_PROTOCOLS:
        answer = worker.call("POST", "nodes", message)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (426, "protocol_unsupported")
        assert error["message"] == (
            f"The control plane speaks protocol {PROTOCOL_VERSION}, the node {message.get('protocol')}: "
            "install the version of inference_workers that belongs to this control plane"
        )
    assert count("fleet_node") == 1


BAD_HELLOS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "invalid_value"),
    ({"name": "x" * 201}, "invalid_value"),
    ({"name": 5}, "invalid_request"),
    ({"name": "a\0"}, "invalid_request"),
    ({"incarnation": "x" * 65}, "invalid_value"),
    ({"incarnation": ""}, "invalid_value"),
    ({"incarnation": None}, "invalid_request"),
    ({"models": "little"}, "invalid_request"),
    ({"hardware": {"gpus": ["\0"]}}, "invalid_request"),
]


def test_a_hello_that_makes_no_sense_is_refused() -> None:
    worker = Worker()
    for changes, code in BAD_HELLOS:
        answer = worker.call("POST", "nodes", hello(**changes))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), changes
    assert count("fleet_node") == 1


def test_text_that_only_looks_like_a_nul_is_text() -> None:
    worker = Worker()
    answer = worker.call("POST", "nodes", hello(name="node-2", software={"note": r"\u0000"}))
    assert answer.status_code == 200


def test_a_node_without_a_worker_token_is_refused(cast: Cast) -> None:
    worker = Worker()
    for worker.token in (
        "nonsense",
        "hone_wk_0000_1111",
        "hone_sk_0000_1111",
        cast.alice.token,
        cast.alice.admin_token,
    ):
        for method, path in (
            ("POST", "nodes"),
            ("GET", "nodes/node-1"),
            ("POST", f"nodes/{worker.node_id}/heartbeat"),
            ("POST", f"nodes/{worker.node_id}/leases"),
            ("GET", "leases/lease_1/input"),
            ("PUT", "leases/lease_1/segments/0"),
            ("POST", "leases/lease_1/complete"),
            ("POST", "leases/lease_1/fail"),
        ):
            answer = worker.call(method, path, {})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_worker_token"), path


def test_a_revoked_token_is_refused() -> None:
    worker = Worker()
    change("UPDATE fleet_workertoken SET revoked_at = now()")
    assert worker.hello().status_code == 401


def test_a_token_speaks_for_its_own_nodes_alone() -> None:
    first, second = Worker(name="node-1"), Worker(name="node-2")
    first.node_id = second.node_id
    for answer in (
        first.request_lease(),
        first.report(),
        first.call("POST", "nodes/nonsense/heartbeat", {"incarnation": "x"}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_new_process_of_a_node_takes_over_and_the_old_one_is_told(model: None, cast: Cast) -> None:
    submit(cast.alice, jsonl([line(1)]))
    run_control()
    old = Worker()
    grant = old.lease()
    new = Worker(token=old.token)
    assert new.node_id == old.node_id
    for answer in (
        old.request_lease(),
        old.report(leases=[{"id": grant.id, "epoch": grant.epoch}]),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "node_replaced")
    assert call_lease(grant) == (409, "lease_lost")
    assert new.report(leases=[{"id": grant.id, "epoch": grant.epoch}]).json()["leases"] == {grant.id: "lost"}
    assert query_owner("SELECT state, failure ->> 'code' FROM fleet_lease WHERE kind = 'batch_shard'") == [
        ("waiting", "node_restarted")
    ]
    change("UPDATE fleet_lease SET not_before = now()")
    assert new.lease().id == grant.id


def call_lease(grant: Grant) -> tuple[int, str]:
    answer = grant.complete()
    return answer.status_code, answer.json()["error"]["code"]


def test_a_hello_that_is_repeated_keeps_the_leases(model: None, cast: Cast) -> None:
    submit(cast.alice, jsonl([line(1)]))
    run_control()
    worker = Worker()
    grant = worker.lease()
    assert worker.hello().status_code == 200
    assert grant.heartbeat() == "continue"


def test_a_draining_node_keeps_what_it_holds_and_gets_nothing_new(
    model: None, cast: Cast, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        submit(cast.alice, jsonl([line(number)]))
    run_control()
    worker = Worker()
    grant = worker.lease()
    call_command("drain_node", "node-1")
    assert worker.report().json() == {"drain": True, "leases": {}}
    assert worker.call("GET", "nodes/node-1").json()["state"] == "draining"
    assert worker.request_lease().status_code == 204
    assert grant.heartbeat() == "continue"
    call_command("drain_node", "node-1", "--undo")
    assert capsys.readouterr().out == "node-1 is draining\nnode-1 is active\n"
    assert worker.request_lease().status_code == 200


def test_draining_a_node_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CommandError, match="No node is called 'node-9'"):
        call_command("drain_node", "node-9")
    assert Worker().call("GET", "nodes/node-9").status_code == 404


def test_the_fastest_node_that_is_up_and_ready_says_how_much_a_model_gets_done() -> None:
    assert node_tokens_per_second(model=MODEL) == 0
    slow, fast, failed, silent = (Worker(name=name) for name in ("slow", "fast", "failed", "silent"))
    slow.report(tokens_per_second=70.5)
    assert node_tokens_per_second(model=MODEL) == 70.5
    fast.report(tokens_per_second=300)
    failed.report(tokens_per_second=1000, state="failed")
    silent.report(tokens_per_second=5000)
    change("UPDATE fleet_node SET last_seen_at = now() - interval '31 seconds' WHERE name = 'silent'")
    assert node_tokens_per_second(model=MODEL) == 300
    assert node_tokens_per_second(model="other") == 0


def test_the_fleet_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("nodes")
    assert capsys.readouterr().out == "NODE  SEEN  STATE  MODEL  MODEL STATE  IN FLIGHT  TOKENS/S  MESSAGE\n"
    Worker(name="a").report(in_flight=60, in_flight_limit=64, tokens_per_second=71.46)
    Worker(name="bigger").report(state="failed", message="died 4 times within 12 s: no memory")
    Worker(name="c")
    set_draining(name="bigger", is_draining=True)
    change("UPDATE fleet_node SET last_seen_at = now() - interval '75 seconds' WHERE name = 'c'")
    call_command("nodes")
    assert capsys.readouterr().out == (
        "NODE    SEEN      STATE     MODEL   MODEL STATE  IN FLIGHT  TOKENS/S  MESSAGE\n"
        "a       0 s ago   active    little  ready        60 of 64   71.5\n"
        "bigger  0 s ago   draining  little  failed       0 of 0     0.0       died 4 times within 12 s: no memory\n"
        "c       75 s ago  silent    little  ready        0 of 0     0.0\n"
    )


def test_a_token_in_a_file_is_private_and_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "worker.token"
    call_command("create_worker_token", "--name", "machine", "--output", str(output))
    token = output.read_text()
    assert token.startswith("hone_wk_")
    assert output.stat().st_mode & 0o777 == 0o600
    call_command("create_worker_token", "--name", "machine", "--output", str(output))
    assert (output.read_text(), count("fleet_workertoken")) == (token, 1)
    assert token not in capsys.readouterr().out
    change("UPDATE fleet_workertoken SET revoked_at = now()")
    call_command("create_worker_token", "--name", "machine", "--output", str(output))
    assert output.read_text() != token
    assert Worker(token=output.read_text()).node_id


def test_a_token_is_not_stored(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_worker_token", "--name", "machine")
    token = capsys.readouterr().out.strip()
    stored = str(query_owner("SELECT to_jsonb(t)::text FROM fleet_workertoken t"))
    assert token.rpartition("_")[2] not in stored
