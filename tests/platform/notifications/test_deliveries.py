"""The delivery log, replay, and how long things are remembered."""

from typing import Any

import pytest

from common.ids import uuid7
from notifications.delivery import BACK_OFF, claim_deliveries, record_attempt, send_due_deliveries
from notifications.services import delete_old_events
from notifications.transport import Answer
from tests.support.cast import Cast
from tests.support.facts import change, count
from tests.support.receiver import Receiver
from tests.support.tables import rows_of
from tests.support.threads import at_once
from tests.support.webhooks import PATH, deliveries, emit, let_pause_pass, make_endpoint

URL = "https://hooks.example.com/"


def replay(cast: Cast, endpoint: Any, delivery: Any) -> Any:
    return cast.alice.client.post(f"{PATH}/{endpoint['id']}/deliveries/{delivery['id']}/replay")


def let_fail(attempts: int) -> None:
    """So many attempts in a row find nobody."""
    for _ in range(attempts):
        (attempt,) = claim_deliveries(limit=1)
        record_attempt(attempt=attempt, answer=Answer(status=500))
        let_pause_pass()


def test_the_log_is_paged_and_filtered(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1", "batch_2", "batch_3")
    assert send_due_deliveries() == 3
    emit(cast.alice, "batch_4")
    listed = [each["event"]["data"]["id"] for each in deliveries(cast.alice, endpoint)]
    assert listed == ["batch_4", "batch_3", "batch_2", "batch_1"]
    assert [len(deliveries(cast.alice, endpoint, status=status)) for status in ("pending", "delivered", "failed")] == [
        1, 3, 0,
    ]  # fmt: skip
    page = cast.alice.client.get(f"{PATH}/{endpoint['id']}/deliveries", data={"limit": 3}).json()
    assert (page["object"], len(page["data"]), page["has_more"]) == ("list", 3, True)
    assert [each["event"]["data"]["id"] for each in deliveries(cast.alice, endpoint, after=page["last_id"])] == [
        "batch_1"
    ]
    (delivery,) = deliveries(cast.alice, endpoint, status="pending")
    assert delivery == {
        "id": delivery["id"],
        "object": "webhook_endpoint.delivery",
        "created_at": delivery["created_at"],
        "event": {
            "id": delivery["event"]["id"],
            "object": "event",
            "created_at": delivery["created_at"],
            "type": "batch.completed",
            "data": {"id": "batch_4"},
        },
        "status": "pending",
        "error": None,
        "next_attempt_at": delivery["created_at"],
        "attempts": [],
    }


@pytest.mark.parametrize(
    ("query", "param"), [({"status": "lost"}, "status"), ({"status": ""}, "status"), ({"after": "we_1"}, "after")]
)
def test_a_page_of_the_log_that_does_not_exist(cast: Cast, query: dict[str, str], param: str) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    answer = cast.alice.client.get(f"{PATH}/{endpoint['id']}/deliveries", data=query)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_value", param)


def test_a_replay_sends_the_same_event_again(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    (delivery,) = deliveries(cast.alice, endpoint)
    answer = replay(cast, endpoint, delivery)
    assert answer.status_code == 200
    assert answer.json() == {**delivery, "status": "pending", "next_attempt_at": answer.json()["next_attempt_at"]}
    assert send_due_deliveries() == 1
    (after,) = deliveries(cast.alice, endpoint)
    assert (after["status"], [attempt["number"] for attempt in after["attempts"]]) == ("delivered", [1, 2])
    first, second = receiver.received
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


def test_a_replay_has_the_whole_back_off_before_it(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    emit(cast.alice, "batch_1")
    let_fail(len(BACK_OFF) + 1)
    (delivery,) = deliveries(cast.alice, endpoint)
    assert delivery["status"] == "failed"
    assert replay(cast, endpoint, delivery).json()["status"] == "pending"
    let_fail(len(BACK_OFF))
    assert deliveries(cast.alice, endpoint)[0]["status"] == "pending"
    let_fail(1)
    (delivery,) = deliveries(cast.alice, endpoint)
    assert (delivery["status"], len(delivery["attempts"])) == ("failed", 2 * (len(BACK_OFF) + 1))


def test_a_replay_is_not_lost_to_a_last_attempt_that_fails_meanwhile(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    emit(cast.alice, "batch_1")
    let_fail(len(BACK_OFF))
    (attempt,) = claim_deliveries(limit=1)
    (delivery,) = deliveries(cast.alice, endpoint)
    assert replay(cast, endpoint, delivery).status_code == 200
    record_attempt(attempt=attempt, answer=Answer(status=500))
    (after,) = deliveries(cast.alice, endpoint)
    assert (after["status"], len(after["attempts"])) == ("pending", len(BACK_OFF) + 1)
    assert len(claim_deliveries(limit=1)) == 1


def test_replays_at_once_send_once(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1")
    assert send_due_deliveries() == 1
    (delivery,) = deliveries(cast.alice, endpoint)
    answers = at_once(*[lambda: replay(cast, endpoint, delivery)] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert send_due_deliveries() == 1
    assert len(receiver.received) == 2


def test_a_disabled_endpoint_is_not_replayed_to(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    emit(cast.alice, "batch_1")
    cast.alice.client.post(f"{PATH}/{endpoint['id']}", {"enabled": False})
    (delivery,) = deliveries(cast.alice, endpoint)
    before = rows_of(cast.alice.organization.id)
    answer = replay(cast, endpoint, delivery)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert rows_of(cast.alice.organization.id) == before


def test_a_delivery_is_found_below_its_own_endpoint_alone(cast: Cast) -> None:
    endpoint, other = make_endpoint(cast.alice, URL), make_endpoint(cast.alice, URL, "batch.failed")
    strangers = make_endpoint(cast.charlie, URL)
    emit(cast.alice, "batch_1")
    (delivery,) = deliveries(cast.alice, endpoint)
    before = rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)
    for client, below, wanted in (
        (cast.alice.client, other, delivery["id"]),
        (cast.charlie.client, strangers, delivery["id"]),
        (cast.alice.client, endpoint, f"whd_{uuid7().hex}"),
        (cast.alice.client, endpoint, delivery["event"]["id"]),
    ):
        answer = client.post(f"{PATH}/{below['id']}/deliveries/{wanted}/replay")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert (rows_of(cast.alice.organization.id), rows_of(cast.charlie.organization.id)) == before


def test_old_events_are_forgotten_unless_they_are_on_their_way(cast: Cast, receiver: Receiver, settings: Any) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    make_endpoint(cast.charlie, receiver.url)
    emit(cast.alice, "batch_1", "batch_2")
    emit(cast.charlie, "batch_3")
    assert send_due_deliveries() == 3
    receiver.answer(500)
    emit(cast.alice, "batch_4")
    assert send_due_deliveries() == 1
    change("UPDATE notifications_event SET created_at = now() - interval '29 days'")
    assert delete_old_events() == 0
    change("UPDATE notifications_event SET created_at = now() - interval '31 days' WHERE object_id <> 'batch_2'")
    settings.WEBHOOK_RETENTION_DAYS = 0
    assert delete_old_events() == 0
    settings.WEBHOOK_RETENTION_DAYS = 30
    assert [delete_old_events(limit=1), delete_old_events(limit=1), delete_old_events()] == [1, 1, 0]
    assert [each["event"]["data"]["id"] for each in deliveries(cast.alice, endpoint)] == ["batch_4", "batch_2"]
    assert [count(f"notifications_{table}") for table in ("event", "delivery", "deliveryattempt")] == [2, 2, 2]
