"""Deliveries on their way: what is sent, tried again, given up; killed senders, several senders, slow receivers."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.db import connections

from common.database import OWNER
from notifications.delivery import (
    BACK_OFF,
    PARALLEL_PER_ENDPOINT,
    PARALLEL_PER_ORGANIZATION,
    claim_deliveries,
    record_attempt,
    send,
    send_due_deliveries,
)
from notifications.tasks import send_due
from notifications.transport import Answer
from tests.support.cast import Cast
from tests.support.facts import change, count
from tests.support.receiver import Receiver
from tests.support.tables import query, rows_of
from tests.support.threads import at_once
from tests.support.waiting import wait_until
from tests.support.webhooks import COMPLETED, PATH, deliveries, emit, let_pause_pass, make_endpoint

ROOT = Path(__file__).resolve().parents[3]


def outcome(delivery: Any) -> tuple[str, str | None, list[tuple[int, int | None, str | None]]]:
    """Status, error, and number, status code and error of each attempt."""
    log = [(attempt["number"], attempt["status_code"], attempt["error"]) for attempt in delivery["attempts"]]
    return delivery["status"], delivery["error"], log


def pause() -> float:
    """Seconds until the only pending delivery is due."""
    ((seconds,),) = query(
        "SELECT extract(epoch FROM next_attempt_at - now()) FROM notifications_delivery WHERE state = 'pending'",
        using=OWNER,
    )
    return float(seconds)


def test_an_event_is_sent_as_it_is_documented(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    (delivery,) = deliveries(cast.alice, endpoint)
    (received,) = receiver.received
    assert received.path == "/hooks?from=hone"
    assert received.event == delivery["event"]
    assert received.event == {
        "id": delivery["event"]["id"],
        "object": "event",
        "created_at": delivery["created_at"],
        "type": COMPLETED,
        "data": {"id": "batch_1"},
    }
    assert {name.lower(): value for name, value in received.headers.items()} == {
        "host": f"127.0.0.1:{receiver.port}",
        "connection": "close",
        "user-agent": "Hone-Webhooks/1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(received.body)),
        "webhook-id": received.event["id"],
        "webhook-timestamp": received.headers["webhook-timestamp"],
        "webhook-signature": received.headers["webhook-signature"],
    }
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 10
    assert outcome(delivery) == ("delivered", None, [(1, 200, None)])
    assert delivery["next_attempt_at"] is None
    assert send_due_deliveries() == 0


@pytest.mark.parametrize("status", [201, 202, 204])
def test_every_2xx_is_a_delivery(cast: Cast, receiver: Receiver, status: int) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    receiver.answer(status)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    assert outcome(deliveries(cast.alice, endpoint)[0]) == ("delivered", None, [(1, status, None)])


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 409, 429, 500, 503])
def test_everything_else_is_tried_again_with_the_same_id(cast: Cast, receiver: Receiver, status: int) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    receiver.answer(status)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    assert outcome(deliveries(cast.alice, endpoint)[0]) == ("pending", "status", [(1, status, "status")])
    assert send_due_deliveries() == 0
    let_pause_pass()
    assert send_due_deliveries() == 1
    assert outcome(deliveries(cast.alice, endpoint)[0]) == (
        "delivered", None, [(1, status, "status"), (2, 200, None)],
    )  # fmt: skip
    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(cast: Cast, receiver: Receiver, other_receiver: Receiver, status: int) -> None:
    make_endpoint(cast.alice, receiver.url)
    receiver.answer(status, headers=f"Location: {other_receiver.url}\r\n")
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    assert (len(receiver.received), len(other_receiver.received)) == (1, 0)


def test_pauses_grow_for_about_three_days_and_then_it_has_failed(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    receiver.answer(*[500] * 20)
    emit(cast.alice, "batch_1")
    for planned in BACK_OFF:
        assert send_due_deliveries() == 1
        assert 0.8 * planned.total_seconds() - 5 < pause() <= 1.2 * planned.total_seconds()
        let_pause_pass()
    assert send_due_deliveries() == 1
    status, error, log = outcome(deliveries(cast.alice, endpoint)[0])
    assert (status, error) == ("failed", "status")
    assert log == [(number, 500, "status") for number in range(1, len(BACK_OFF) + 2)]
    assert send_due_deliveries() == 0
    assert len(receiver.received) == len(BACK_OFF) + 1 == 13
    assert timedelta(hours=60) < sum(BACK_OFF, timedelta()) < timedelta(hours=84)


def test_a_changed_url_is_where_the_next_attempt_goes(cast: Cast, receiver: Receiver, other_receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    receiver.answer(500)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    cast.alice.client.post(f"{PATH}/{endpoint['id']}", {"url": other_receiver.url})
    let_pause_pass()
    assert send_due_deliveries() == 1
    assert (len(receiver.received), len(other_receiver.received)) == (1, 1)


def test_gone_disables_the_endpoint(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    receiver.answer(410)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    emit(cast.alice, "batch_2")
    (delivery,) = deliveries(cast.alice, endpoint)
    assert outcome(delivery) == ("failed", "endpoint_disabled", [(1, 410, "status")])
    assert cast.alice.client.get(f"{PATH}/{endpoint['id']}").json()["enabled"] is False
    trace = [row for row in rows_of(cast.alice.organization.id)["tenants_auditevent"] if "endpoint.disabled" in row]
    assert len(trace) == 1
    assert '"actor": "system"' in trace[0]


def test_a_killed_senders_delivery_is_sent_again(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    (attempt,) = claim_deliveries(limit=10)
    assert send(attempt).status == 200  # and now it is killed
    assert send_due_deliveries() == 0
    assert outcome(deliveries(cast.alice, endpoint)[0]) == ("pending", None, [])
    let_pause_pass()
    assert send_due_deliveries() == 1
    assert outcome(deliveries(cast.alice, endpoint)[0]) == ("delivered", None, [(2, 200, None)])
    assert [event["data"]["id"] for event in receiver.events] == ["batch_1"] * 2


def test_a_sender_that_is_really_killed_loses_nothing(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1", "batch_2", "batch_3")
    receiver.pause.clear()
    script = "import config, django; django.setup(); from notifications.tasks import send_due; send_due()"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings.test", "HONE_WEBHOOK_ALLOW_PRIVATE": "true"},
    )
    try:
        wait_until(lambda: len(receiver.received) == 3, seconds=30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    receiver.pause.set()
    assert [outcome(each)[0] for each in deliveries(cast.alice, endpoint)] == ["pending"] * 3
    let_pause_pass()
    send_due()  # the dead one's advisory lock went with its connection
    assert [outcome(each)[0] for each in deliveries(cast.alice, endpoint)] == ["delivered"] * 3
    assert sorted(event["data"]["id"] for event in receiver.events) == sorted(["batch_1", "batch_2", "batch_3"] * 2)


def test_an_outcome_that_comes_too_late_is_logged_and_changes_nothing(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    (stopped,) = claim_deliveries(limit=10)
    let_pause_pass()
    (taken_over,) = claim_deliveries(limit=10)
    assert (stopped.delivery_id, stopped.number, taken_over.number) == (taken_over.delivery_id, 1, 2)
    record_attempt(attempt=taken_over, answer=Answer(status=200))
    record_attempt(attempt=stopped, answer=Answer(status=500))
    assert outcome(deliveries(cast.alice, endpoint)[0]) == (
        "delivered", None, [(1, 500, "status"), (2, 200, None)],
    )  # fmt: skip


def test_a_delivery_that_arrives_while_its_endpoint_is_deleted_has_arrived(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1", "batch_2")
    arrived, lost = claim_deliveries(limit=10)
    assert cast.alice.client.delete(f"{PATH}/{endpoint['id']}").status_code == 200
    record_attempt(attempt=arrived, answer=Answer(status=200))
    record_attempt(attempt=lost, answer=Answer(status=500))
    states = query("SELECT id, state, error, next_attempt_at FROM notifications_delivery", using=OWNER)
    assert sorted(states) == sorted(
        [(arrived.delivery_id, "delivered", "", None), (lost.delivery_id, "failed", "endpoint_deleted", None)]
    )


def test_an_attempt_whose_delivery_is_gone_is_forgotten(cast: Cast, receiver: Receiver) -> None:
    make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    (attempt,) = claim_deliveries(limit=10)
    change("DELETE FROM notifications_delivery")
    record_attempt(attempt=attempt, answer=Answer(status=200))
    assert count("notifications_deliveryattempt") == 0


def test_several_senders_at_once_send_each_delivery_once(cast: Cast, receiver: Receiver) -> None:
    for _ in range(4):
        make_endpoint(cast.alice, receiver.url)
    batches = [f"batch_{number}" for number in range(15)]
    emit(cast.alice, *batches)
    assert sum(at_once(*[lambda: send_due_deliveries(parallel=4)] * 4)) == 60
    assert sorted(event["data"]["id"] for event in receiver.events) == sorted(batches * 4)
    assert query("SELECT state, attempts, count(*) FROM notifications_delivery GROUP BY 1, 2", using=OWNER) == [
        ("delivered", 1, 60)
    ]


def test_claims_at_once_take_each_delivery_once(cast: Cast, receiver: Receiver) -> None:
    make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1", "batch_2", "batch_3")
    claimed = at_once(*[lambda: claim_deliveries(limit=10)] * 6)
    assert sorted(attempt.object_id for attempts in claimed for attempt in attempts) == [
        "batch_1",
        "batch_2",
        "batch_3",
    ]


def test_a_slow_receiver_does_not_hold_up_others(cast: Cast, receiver: Receiver, other_receiver: Receiver) -> None:
    slow, prompt = make_endpoint(cast.alice, receiver.url), make_endpoint(cast.alice, other_receiver.url)
    receiver.pause.clear()
    batches = [f"batch_{number}" for number in range(12)]
    emit(cast.alice, *batches)

    def run() -> None:
        try:
            send_due_deliveries(parallel=8)
        finally:
            connections.close_all()

    sender = Thread(target=run)
    sender.start()
    try:
        wait_until(lambda: len(other_receiver.received) == 12)
        assert len(receiver.received) == PARALLEL_PER_ENDPOINT
    finally:
        receiver.pause.set()
        sender.join(30)
    assert [each["status"] for each in deliveries(cast.alice, prompt)] == ["delivered"] * 12
    assert [each["status"] for each in deliveries(cast.alice, slow)] == ["delivered"] * 12


def test_organisations_take_turns(cast: Cast, receiver: Receiver) -> None:
    for _ in range(5):
        make_endpoint(cast.alice, receiver.url)
    make_endpoint(cast.charlie, receiver.url)
    emit(cast.alice, *[f"batch_{number}" for number in range(10)])
    emit(cast.charlie, "batch_a", "batch_b")
    first = claim_deliveries(limit=6)
    assert sorted(attempt.object_id for attempt in first if attempt.object_id in ("batch_a", "batch_b")) == [
        "batch_a", "batch_b",
    ]  # fmt: skip
    assert len(first) == 6
    more = claim_deliveries(limit=100, running=first)
    busy = {attempt.endpoint_id for attempt in first}
    assert [attempt for attempt in more if attempt.endpoint_id in busy] == []


def test_neither_an_endpoint_nor_an_organisation_takes_all_places(cast: Cast, receiver: Receiver) -> None:
    make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, *[f"batch_{number}" for number in range(10)])
    first = claim_deliveries(limit=100)
    assert len(first) == PARALLEL_PER_ENDPOINT
    assert claim_deliveries(limit=100, running=first) == []
    for _ in range(6):
        make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, *[f"batch_{number}" for number in range(20, 30)])
    assert len(claim_deliveries(limit=100, running=first)) == PARALLEL_PER_ORGANIZATION - PARALLEL_PER_ENDPOINT


def test_a_bug_in_one_request_keeps_no_other_from_its_record(
    cast: Cast, receiver: Receiver, other_receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = make_endpoint(cast.alice, receiver.url), make_endpoint(cast.alice, other_receiver.url)
    emit(cast.alice, "batch_1")

    def send_or_break(attempt: Any) -> Answer:
        if attempt.url == receiver.url:
            raise KeyError("a bug")
        return send(attempt)

    monkeypatch.setattr("notifications.delivery.send", send_or_break)
    assert send_due_deliveries() == 2
    assert outcome(deliveries(cast.alice, broken)[0]) == ("pending", "internal_error", [(1, None, "internal_error")])
    assert outcome(deliveries(cast.alice, fine)[0]) == ("delivered", None, [(1, 200, None)])


def test_no_connection_to_the_database_is_in_a_transaction_while_something_is_sent(
    cast: Cast, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    open_transactions = []

    def send_and_look(attempt: Any) -> Answer:
        open_transactions.extend(
            query("SELECT count(*) FROM pg_locks WHERE relation = 'notifications_delivery'::regclass", using=OWNER)
        )
        connections.close_all()
        return send(attempt)

    monkeypatch.setattr("notifications.delivery.send", send_and_look)
    assert send_due_deliveries() == 1
    assert open_transactions == [(0,)]


def test_a_secret_that_was_kept_stops_signing_after_a_day(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    cast.alice.client.post(f"{PATH}/{endpoint['id']}/rotate_secret", {"keep_old_secret_active_for_24_hours": True})
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    for hours, signatures in ((23, 2), (24, 1)):
        change(
            "UPDATE notifications_webhookendpoint SET previous_secret_until = updated_at + interval '24 hours'"
            " - make_interval(hours => %s)",
            hours,
        )
        emit(cast.alice, f"batch_after_{hours}")
        assert send_due_deliveries() == 1
        assert len(receiver.received[-1].headers["webhook-signature"].split()) == signatures
