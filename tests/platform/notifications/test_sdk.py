"""Webhooks through the unmodified ``openai`` SDK, strict, against a real server; what arrives is unwrapped by it."""

from collections.abc import Iterator

import openai
import pytest
from openai import InvalidWebhookSignatureError

from notifications.delivery import send_due_deliveries
from tests.support.cast import Cast
from tests.support.receiver import Receiver
from tests.support.sdk import async_sdk, sdk
from tests.support.server import Server, start_server
from tests.support.webhooks import deliveries, emit

BATCH = f"batch_{'1' * 32}"


@pytest.fixture(scope="module")
def webhook_server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The control plane, allowed to reach receivers on this machine."""
    with start_server(tmp_path_factory.mktemp("webhooks"), HONE_WEBHOOK_ALLOW_PRIVATE="true") as running:
        yield running


def test_an_endpoint_from_creation_to_deletion(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(
            name="Production", url=receiver.url, event_types=["batch.completed", "batch.failed"]
        )
        assert made.id.startswith("we_")
        assert (made.object, made.name, made.url) == ("webhook_endpoint", "Production", receiver.url)
        assert made.event_types == ["batch.completed", "batch.failed"]
        assert made.signing_secret.startswith("whsec_")
        assert made.updated_at == made.created_at
        shown = client.webhooks.retrieve(made.id)
        assert shown.model_dump() == made.model_dump(exclude={"signing_secret"})
        assert shown.signing_secret_hint == f"whsec_...{made.signing_secret[-5:-1]}"
        assert list(client.webhooks.list()) == [shown]
        changed = client.webhooks.update(made.id, name="Staging", event_types=["batch.expired"])
        assert (changed.name, changed.url, changed.event_types) == ("Staging", receiver.url, ["batch.expired"])
        assert client.webhooks.retrieve(made.id) == changed
        for enabled in (False, True):
            switched = client.webhooks.update(made.id, extra_body={"enabled": enabled})
            assert switched.model_dump(exclude={"updated_at"}) == {
                **changed.model_dump(exclude={"updated_at"}), "enabled": enabled,
            }  # fmt: skip
        deleted = client.webhooks.delete(made.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "webhook_endpoint.deleted", True)
        assert list(client.webhooks.list()) == []
        with pytest.raises(openai.NotFoundError) as missing:
            client.webhooks.retrieve(made.id)
        assert (missing.value.code, missing.value.param) == ("not_found", "id")
    assert made.signing_secret not in webhook_server.log()


def test_a_list_turns_its_own_pages(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = [
            client.webhooks.create(name=str(number), url=receiver.url, event_types=["batch.failed"]).id
            for number in range(5)
        ]
        pages = list(client.webhooks.list(limit=2).iter_pages())
        assert [[endpoint.id for endpoint in page.data] for page in pages] == [made[:2:-1], made[2:0:-1], made[:1]]
        assert client.webhooks.event_types.list().data == [
            "batch.completed", "batch.failed", "batch.expired", "batch.cancelled", "fine_tuning.job.succeeded",
            "fine_tuning.job.failed", "fine_tuning.job.cancelled",
        ]  # fmt: skip


def test_what_arrives_is_unwrapped_with_the_secret_and_with_no_other(
    webhook_server: Server, cast: Cast, receiver: Receiver
) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        emit(cast.alice, BATCH)
        assert send_due_deliveries() == 1
        (received,) = receiver.received
        event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
        assert (event.type, event.object) == ("batch.completed", "event")
        assert event.data.id == BATCH  # type: ignore[union-attr]  # narrowed by its type above
        assert event.id.startswith("evt_")
        assert received.headers["webhook-id"] == event.id
        for body, secret in (
            (received.body, "whsec_" + "A" * 43 + "="),
            (received.body.replace(b"1" * 32, b"2" * 32), made.signing_secret),
        ):
            with pytest.raises(InvalidWebhookSignatureError):
                client.webhooks.unwrap(body, received.headers, secret=secret)
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.verify_signature(
                received.body, {**received.headers, "webhook-id": "evt_other"}, secret=made.signing_secret
            )


def test_a_rotated_secret_replaces_the_old_one_at_once(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        rotated = client.webhooks.rotate_secret(made.id)
        assert rotated.signing_secret != made.signing_secret
        assert rotated.signing_secret_hint == client.webhooks.retrieve(made.id).signing_secret_hint
        client.webhooks.test(made.id, event_type="batch.completed")
        (received,) = receiver.received
        client.webhooks.verify_signature(received.body, received.headers, secret=rotated.signing_secret)
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.verify_signature(received.body, received.headers, secret=made.signing_secret)


def test_a_secret_that_is_kept_signs_beside_the_new_one(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        emit(cast.alice, BATCH)
        assert send_due_deliveries() == 1
        client.webhooks.test(made.id, event_type="batch.completed")
        assert len(receiver.received) == 2
        for received in receiver.received:
            assert len(received.headers["webhook-signature"].split(" ")) == 2
            for secret in (made.signing_secret, rotated.signing_secret):
                client.webhooks.verify_signature(received.body, received.headers, secret=secret)


def test_a_test_sends_a_signed_sample_now(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    receiver.answer(200, 410)
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        for status in (200, 410):
            result = client.webhooks.test(made.id, event_type="batch.cancelled")
            assert result.model_dump() == {
                "object": "webhook_endpoint.test", "webhook_endpoint_id": made.id, "event_type": "batch.cancelled",
                "status_code": status, "success": True,
            }  # fmt: skip
        for received in receiver.received:
            event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
            assert event.type == "batch.cancelled"
        assert len({received.headers["webhook-id"] for received in receiver.received}) == 2
        assert client.webhooks.retrieve(made.id).updated_at == made.updated_at
    assert deliveries(cast.alice, {"id": made.id}) == []


def test_a_sample_is_about_an_object_of_its_kind(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    receiver.answer(200, 200)
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        for event_type, prefix in (("fine_tuning.job.succeeded", "ftjob-"), ("batch.failed", "batch_")):
            client.webhooks.test(made.id, event_type=event_type)  # type: ignore[arg-type]  # a str in the loop
            received = receiver.received[-1]
            event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
            assert (event.type, event.data.id) == (event_type, f"{prefix}{'0' * 32}")  # type: ignore[union-attr]


def test_a_test_that_reaches_nobody_says_why(webhook_server: Server, cast: Cast) -> None:
    with sdk(webhook_server, cast.alice) as client:
        made = client.webhooks.create(name="Hooks", url="http://127.0.0.1:1/", event_types=["batch.completed"])
        with pytest.raises(openai.BadRequestError) as caught:
            client.webhooks.test(made.id, event_type="batch.completed")
    assert (caught.value.code, caught.value.param) == ("webhook_unreachable", None)
    assert "connection_failed" in caught.value.message


async def test_the_same_for_asyncio(webhook_server: Server, cast: Cast, receiver: Receiver) -> None:
    async with async_sdk(webhook_server, cast.alice) as client:
        made = await client.webhooks.create(name="Hooks", url=receiver.url, event_types=["batch.completed"])
        assert (await client.webhooks.test(made.id, event_type="batch.completed")).status_code == 200
        (received,) = receiver.received
        event = client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)
        assert event.type == "batch.completed"
        assert (await client.webhooks.update(made.id, name="Other")).name == "Other"
        assert [endpoint.name async for endpoint in client.webhooks.list()] == ["Other"]
        rotated = await client.webhooks.rotate_secret(made.id)
        assert (await client.webhooks.retrieve(made.id)).signing_secret_hint == rotated.signing_secret_hint
        assert "batch.completed" in (await client.webhooks.event_types.list()).data
        assert (await client.webhooks.delete(made.id)).deleted


@pytest.mark.parametrize("url", ["http://hooks.example.com/", "https://10.0.0.1/", "https://localhost/"])
def test_an_address_that_is_not_public_is_refused(server: Server, cast: Cast, url: str) -> None:
    with sdk(server, cast.alice) as client, pytest.raises(openai.BadRequestError) as caught:
        client.webhooks.create(name="Hooks", url=url, event_types=["batch.completed"])
    assert (caught.value.code, caught.value.param) == ("invalid_value", "url")
