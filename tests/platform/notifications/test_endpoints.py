"""Endpoints: what is accepted, what changes leave behind, and that the secret stands nowhere."""

import base64
import logging
from threading import BoundedSemaphore
from typing import Any

import pytest

from common.database import OWNER
from tenants.models import AuditEvent
from tests.support.cast import Cast, Member
from tests.support.receiver import Receiver
from tests.support.tables import query, rows_of
from tests.support.threads import at_once
from tests.support.webhooks import COMPLETED, PATH, deliveries, emit, make_endpoint

URL = "https://hooks.example.com/hone?key=customers-own-secret"


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "Hooks", "url": URL, "event_types": [COMPLETED], **changes}


def actions(member: Member) -> list[tuple[str, str]]:
    events = AuditEvent.all_tenants.filter(organization_id=member.organization.id, action__startswith="webhook")
    return [(event.action, event.subject) for event in events.order_by("id")]


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com",
        "https://hooks.example.com:443/a/b?c=%20",
        "https://hooks.example.com:8443/",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:9000/hooks",
    ],
)
def test_public_urls_are_taken_as_they_are(cast: Cast, url: str) -> None:
    assert make_endpoint(cast.alice, url)["url"] == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example.com/", "must begin with https://"),
        ("ftp://hooks.example.com/", "must begin with https://"),
        ("hooks.example.com/", "must begin with https://"),
        ("https://user:password@hooks.example.com/", "user name or password"),
        ("https://@hooks.example.com/", "user name or password"),
        ("https://hooks.example.com/#part", "fragment"),
        ("https://hooks.example.com/a b", "printable ASCII"),
        ("https://hooks.example.com/\r\nX: y", "printable ASCII"),
        ("https://bücher.example/", "printable ASCII"),
        ("https://hooks.example.com\\@10.0.0.1/", "printable ASCII"),
        ("https://hooks.example.com:22/", "port"),
        ("https://hooks.example.com:0/", "port"),
        ("https://hooks.example.com:99999/", "ort"),
        ("https://localhost/", "full domain name"),
        ("https://hooks/", "full domain name"),
        ("https:///hooks", "full domain name"),
        ("https://hooks.example.com./", "full domain name"),
        ("https://2130706433/", "full domain name"),
        ("https://0x7f.1/", "full domain name"),
        ("https://127.1/", "full domain name"),
        ("https://api.localhost/", "not a public name"),
        ("https://metadata.google.internal/", "not a public name"),
        ("https://127.0.0.1/", "not a public one"),
        ("https://169.254.169.254/latest/meta-data", "not a public one"),
        ("https://[::1]/", "not a public one"),
        ("https://[::ffff:10.0.0.1]/", "not a public one"),
        ("https://[fe80::1%25eth0]/", "not a public one"),
        ("https://[::1/", ""),
    ],
)
def test_other_urls_are_refused_with_the_reason(cast: Cast, url: str, reason: str) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    before = rows_of(cast.alice.organization.id)
    for answer in (
        cast.alice.client.post(PATH, body(url=url)),
        cast.alice.client.post(f"{PATH}/{endpoint['id']}", {"url": url}),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", "url")
        assert reason in error["message"]
    assert rows_of(cast.alice.organization.id) == before


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"name": ""}, "invalid_value", "name"),
        ({"name": "   "}, "invalid_value", "name"),
        ({"name": "a\nb"}, "invalid_value", "name"),
        ({"name": "x" * 201}, "invalid_value", "name"),
        ({"name": None}, "invalid_type", "name"),
        ({"url": "https://hooks.example.com/" + "x" * 2048}, "invalid_value", "url"),
        ({"event_types": []}, "invalid_value", "event_types"),
        ({"event_types": "batch.completed"}, "invalid_type", "event_types"),
        ({"event_types": ["batch.completed", "batch.finished"]}, "invalid_value", "event_types.1"),
        ({"event_types": ["response.completed"]}, "invalid_value", "event_types.0"),
        ({"secret": "whsec_mine"}, "unknown_parameter", "secret"),
    ],
)
def test_malformed_bodies_are_refused(cast: Cast, changes: dict[str, Any], code: str, param: str) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    before = rows_of(cast.alice.organization.id)
    for answer in (
        cast.alice.client.post(PATH, body(**changes)),
        cast.alice.client.post(f"{PATH}/{endpoint['id']}", changes),
    ):
        assert answer.status_code == 400
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert rows_of(cast.alice.organization.id) == before


@pytest.mark.parametrize("name", ["name", "url", "event_types"])
def test_nothing_that_is_required_may_be_missing(cast: Cast, name: str) -> None:
    answer = cast.alice.client.post(PATH, {key: value for key, value in body().items() if key != name})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    assert answer.json()["error"]["param"] == name


def test_event_types_are_kept_once_each(cast: Cast) -> None:
    made = make_endpoint(cast.alice, URL, "batch.failed", COMPLETED, "batch.failed")
    assert made["event_types"] == [COMPLETED, "batch.failed"]


def test_a_project_has_so_many_endpoints(cast: Cast, settings: Any) -> None:
    settings.WEBHOOK_ENDPOINTS_PER_PROJECT = 2
    first, _ = make_endpoint(cast.alice, URL), make_endpoint(cast.alice, URL)
    refused = cast.alice.client.post(PATH, body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert refused.headers["x-should-retry"] == "false"
    assert "2 webhook endpoints" in refused.json()["error"]["message"]
    assert len(cast.alice.client.get(PATH).json()["data"]) == 2
    assert make_endpoint(cast.charlie, URL)
    assert cast.alice.client.delete(f"{PATH}/{first['id']}").status_code == 200
    assert make_endpoint(cast.alice, URL)


def test_the_last_place_is_given_once(cast: Cast, settings: Any) -> None:
    settings.WEBHOOK_ENDPOINTS_PER_PROJECT = 3
    answers = at_once(*[lambda: cast.alice.client.post(PATH, body())] * 8)
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 5
    assert len(cast.alice.client.get(PATH).json()["data"]) == 3


def test_an_unchanged_update_changes_nothing(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    before = rows_of(cast.alice.organization.id)
    for changes in ({}, body(), {"enabled": True}):
        answer = cast.alice.client.post(f"{PATH}/{endpoint['id']}", changes)
        assert answer.status_code == 200
    assert rows_of(cast.alice.organization.id) == before


def test_every_change_leaves_a_trace_without_the_url(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    path = f"{PATH}/{endpoint['id']}"
    assert cast.alice.client.post(path, {"url": f"{URL}2"}).status_code == 200
    assert cast.alice.client.post(f"{path}/rotate_secret").status_code == 200
    assert cast.alice.client.delete(path).status_code == 200
    assert actions(cast.alice) == [
        (f"webhook_endpoint.{what}", endpoint["id"]) for what in ("created", "updated", "secret_rotated", "deleted")
    ]
    assert "customers-own-secret" not in str(rows_of(cast.alice.organization.id)["tenants_auditevent"])


def test_deleting_an_endpoint_gives_up_what_is_pending(cast: Cast, receiver: Receiver) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    emit(cast.alice, "batch_1", "batch_2")
    assert cast.alice.client.delete(f"{PATH}/{endpoint['id']}").status_code == 200
    rows = query("SELECT state, error, next_attempt_at FROM notifications_delivery", using=OWNER)
    assert rows == [("failed", "endpoint_deleted", None)] * 2
    assert cast.alice.client.delete(f"{PATH}/{endpoint['id']}").status_code == 404
    for path in ("", "/deliveries"):
        assert cast.alice.client.get(f"{PATH}/{endpoint['id']}{path}").status_code == 404
    emit(cast.alice, "batch_3")
    assert query("SELECT count(*) FROM notifications_event", using=OWNER) == [(2,)]


def test_a_disabled_endpoint_is_told_nothing_until_it_is_enabled(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    path = f"{PATH}/{endpoint['id']}"
    emit(cast.alice, "batch_1")
    assert cast.alice.client.post(path, {"enabled": False}).json()["enabled"] is False
    emit(cast.alice, "batch_2")
    assert [(each["status"], each["error"]) for each in deliveries(cast.alice, endpoint)] == [
        ("failed", "endpoint_disabled")
    ]
    assert cast.alice.client.post(path, {"enabled": True}).json()["enabled"] is True
    emit(cast.alice, "batch_3")
    assert [each["status"] for each in deliveries(cast.alice, endpoint)] == ["pending", "failed"]


def test_tests_of_slow_endpoints_do_not_occupy_the_whole_server(
    cast: Cast, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = make_endpoint(cast.alice, receiver.url)
    tests = BoundedSemaphore(1)
    monkeypatch.setattr("notifications.services._tests", tests)
    path = f"{PATH}/{endpoint['id']}/test"
    with tests:
        busy = cast.alice.client.post(path, {"event_type": COMPLETED})
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "service_unavailable")
    assert busy.headers["retry-after"] == "5"
    assert receiver.received == []
    assert [cast.alice.client.post(path, {"event_type": COMPLETED}).status_code for _ in range(2)] == [200, 200]


def test_secrets_differ_and_stand_neither_in_the_database_nor_in_the_log(
    cast: Cast, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    mine, other = make_endpoint(cast.alice, receiver.url), make_endpoint(cast.alice, receiver.url)
    rotated = cast.alice.client.post(f"{PATH}/{mine['id']}/rotate_secret").json()
    secrets = [endpoint["signing_secret"] for endpoint in (mine, other, rotated)]
    assert len(set(secrets)) == 3
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    assert [len(key) for key in keys] == [32] * 3
    seen = [
        str(rows_of(cast.alice.organization.id)),
        caplog.text,
        cast.alice.client.get(f"{PATH}/{mine['id']}").content.decode(),
        cast.alice.client.get(PATH).content.decode(),
        cast.alice.client.get(f"{PATH}/{secrets[0]}").content.decode(),
        cast.alice.client.post(PATH, body(url=f"https://x:{secrets[0]}@hooks.example.com")).content.decode(),
    ]
    spellings = [spelling for key in keys for spelling in (base64.b64encode(key).decode(), key.hex())]
    assert [spelling for spelling in spellings if any(spelling in text for text in seen)] == []
