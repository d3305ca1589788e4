"""The outbox: an event is written with the change that it tells of, once, for those who want to know."""

from threading import Event
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.database import OWNER
from notifications.services import emit_event
from tenants.scope import tenant_scope
from tests.support.cast import Cast, Member
from tests.support.tables import query, rows_of
from tests.support.threads import at_once
from tests.support.waiting import wait_until
from tests.support.webhooks import COMPLETED, PATH, deliveries, emit, make_endpoint

URL = "https://hooks.example.com/"


def events() -> list[tuple[str, str]]:
    return query("SELECT type, object_id FROM notifications_event ORDER BY id", using=OWNER)


def emit_in_scope(member: Member, object_id: str, type_: str = COMPLETED) -> None:
    emit_event(organization_id=member.organization.id, project_id=member.project.id, type=type_, object_id=object_id)


def test_an_event_goes_to_every_endpoint_that_wants_it_and_to_no_other(cast: Cast) -> None:
    both = make_endpoint(cast.alice, URL, COMPLETED, "batch.failed")
    failed = make_endpoint(cast.alice, URL, "batch.failed")
    strangers = make_endpoint(cast.charlie, URL, COMPLETED, "batch.failed")
    emit(cast.alice, "batch_1")
    emit(cast.alice, "batch_2", type_="batch.failed")
    told = [
        [(entry["event"]["type"], entry["event"]["data"]["id"]) for entry in deliveries(member, endpoint)]
        for member, endpoint in ((cast.alice, both), (cast.alice, failed), (cast.charlie, strangers))
    ]
    assert told == [[("batch.failed", "batch_2"), (COMPLETED, "batch_1")], [("batch.failed", "batch_2")], []]


def test_where_nobody_listens_an_event_costs_one_statement_and_leaves_nothing(cast: Cast) -> None:
    make_endpoint(cast.alice, URL, "batch.failed")
    before = rows_of(cast.alice.organization.id)
    with tenant_scope(cast.alice.organization.id), CaptureQueriesContext(connection) as statements:
        emit_in_scope(cast.alice, "batch_1")
    assert len(statements) == 1
    assert rows_of(cast.alice.organization.id) == before


def test_an_event_costs_two_statements_however_many_listen(cast: Cast) -> None:
    endpoints = [make_endpoint(cast.alice, URL) for _ in range(5)]
    with tenant_scope(cast.alice.organization.id), CaptureQueriesContext(connection) as statements:
        emit_in_scope(cast.alice, "batch_1")
    assert len(statements) == 2
    assert [len(deliveries(cast.alice, endpoint)) for endpoint in endpoints] == [1] * 5


def test_the_same_event_is_written_once(cast: Cast) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    emit(cast.alice, "batch_1", "batch_1")
    at_once(*[lambda: emit(cast.alice, "batch_2")] * 6)
    late = make_endpoint(cast.alice, URL)
    emit(cast.alice, "batch_1")
    assert events() == [(COMPLETED, "batch_1"), (COMPLETED, "batch_2")]
    assert len(deliveries(cast.alice, endpoint)) == 2
    assert deliveries(cast.alice, late) == []


def test_an_event_goes_with_its_transaction(cast: Cast) -> None:
    make_endpoint(cast.alice, URL)

    def change_and_fail() -> None:
        with tenant_scope(cast.alice.organization.id):
            emit_in_scope(cast.alice, "batch_1")
            raise RuntimeError("the change fails")

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert events() == []


def test_an_unknown_type_is_a_bug(cast: Cast) -> None:
    with pytest.raises(ValueError, match=r"batch\.done"), tenant_scope(cast.alice.organization.id):
        emit_in_scope(cast.alice, "batch_1", "batch.done")


@pytest.mark.parametrize(
    ("method", "data", "error"),
    [("DELETE", b"", "endpoint_deleted"), ("POST", b'{"enabled": false}', "endpoint_disabled")],
)
def test_an_endpoint_that_goes_while_an_event_is_written_leaves_nothing_pending(
    cast: Cast, method: str, data: bytes, error: str
) -> None:
    endpoint = make_endpoint(cast.alice, URL)
    emitted, waiting = Event(), Event()

    def change_slowly() -> None:
        with tenant_scope(cast.alice.organization.id):
            emit_in_scope(cast.alice, "batch_1")
            emitted.set()
            waiting.wait(10)

    def end() -> Any:
        emitted.wait(10)
        return cast.alice.client.call(method, f"{PATH}/{endpoint['id']}", data=data, content_type="application/json")

    def let_go() -> None:
        emitted.wait(10)
        wait_until(lambda: query("SELECT count(*) FROM pg_locks WHERE NOT granted", using=OWNER) != [(0,)])
        waiting.set()

    _, answer, _ = at_once(change_slowly, end, let_go)
    assert answer.status_code == 200
    assert query("SELECT state, error FROM notifications_delivery", using=OWNER) == [("failed", error)]
