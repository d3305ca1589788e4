"""What a webhook can reach, and what a hostile receiver can do to its sender: nothing, and wait for ten seconds."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from notifications import transport
from notifications.models import Failure
from notifications.transport import Answer, post
from tests.support.receiver import Receiver, open_receiver

CERTIFICATE = Path(__file__).resolve().parents[2] / "support" / "hooks.test.pem"
"""Signed by itself, for the name ``hooks.test``, with its key: for these tests alone."""
BODY = b'{"object": "event"}'

Resolver = Callable[..., list[str]]
_getaddrinfo = socket.getaddrinfo


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Give names addresses: the first list for the first look-up, and so on. Returns the names looked up so far."""
    answers: dict[str, list[list[str]]] = {}
    asked: list[str] = []

    def answer(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in answers:
            return _getaddrinfo(host, port, *args, **kwargs)
        asked.append(host)
        addresses = answers[host].pop(0)
        return [found for address in addresses for found in _getaddrinfo(address, port, *args, **kwargs)]

    def know(**names: list[list[str]]) -> list[str]:
        answers.update({name.replace("_", "."): lists for name, lists in names.items()})
        return asked

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return know


@pytest.fixture
def public_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 127.0.0.2 were out in the internet, and the receivers' certificate one that everybody trusts."""
    is_public = transport._is_public
    monkeypatch.setattr(transport, "_is_public", lambda address: str(address) == "127.0.0.2" or is_public(address))
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    monkeypatch.setattr(transport, "_tls", lambda: trusting)


def send(url: str) -> Answer:
    return post(url=url, headers={"webhook-id": "evt_1"}, body=BODY)


def result(answer: Answer) -> tuple[int | None, str | None]:
    return answer.status, answer.error


@contextmanager
def raw_server(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that speaks no HTTP by itself: the URL of one whose first connection ``handle`` is given."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            # The sender goes away: the point of some tests.
            with listener.accept()[0] as connection, suppress(OSError):
                handle(connection)

        thread = Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.255",
        "168.63.129.16", "169.254.169.254", "172.16.0.1", "192.0.0.8", "192.0.0.192", "192.0.2.1", "192.88.99.1",
        "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "224.0.1.1", "239.1.2.3", "240.0.0.1",
        "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
        "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::1",
        "2001:10::1", "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "fc00::1", "fd00:ec2::254",
        "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_not_reached(settings: Any, address: str) -> None:
    assert not transport._is_allowed(ip_address(address))
    settings.WEBHOOK_ALLOW_PRIVATE = True
    assert transport._is_allowed(ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450::1",
                "::ffff:8.8.8.8", "64:ff9b::808:808"],
)  # fmt: skip
def test_a_public_address_is_reached(address: str) -> None:
    assert transport._is_allowed(ip_address(address))


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["127.0.0.2", "127.0.0.1"],
                  ["127.0.0.2", "fd00:ec2::254"], ["64:ff9b::7f00:1"]],
)  # fmt: skip
def test_a_name_with_any_address_that_is_not_public_is_not_reached(
    resolver: Resolver, public_loopback: None, addresses: list[str]
) -> None:
    asked = resolver(hooks_test=[addresses])
    with open_receiver(certificate=CERTIFICATE, host="127.0.0.2") as receiver:
        answer = send(f"https://hooks.test:{receiver.port}/")
    assert result(answer) == (None, Failure.ADDRESS_NOT_ALLOWED)
    assert receiver.received == []
    assert asked == ["hooks.test"]


def test_a_name_that_changes_its_mind_gains_nothing(resolver: Resolver, public_loopback: None) -> None:
    asked = resolver(hooks_test=[["127.0.0.2"], ["127.0.0.1"]])
    with (
        open_receiver(certificate=CERTIFICATE, host="127.0.0.2") as public,
        open_receiver(certificate=CERTIFICATE, port=public.port) as inside,
    ):
        assert result(send(f"https://hooks.test:{public.port}/a?b=c")) == (200, None)
    assert asked == ["hooks.test"]
    (received,) = public.received
    assert (received.path, received.headers["Host"]) == ("/a?b=c", f"hooks.test:{public.port}")
    assert inside.received == []
    with open_receiver(certificate=CERTIFICATE) as inside:
        assert result(send(f"https://hooks.test:{inside.port}/")) == (None, Failure.ADDRESS_NOT_ALLOWED)
    assert inside.received == []


def test_a_certificate_must_be_the_names(resolver: Resolver, public_loopback: None) -> None:
    resolver(other_test=[["127.0.0.2"]])
    with open_receiver(certificate=CERTIFICATE, host="127.0.0.2") as receiver:
        assert result(send(f"https://other.test:{receiver.port}/")) == (None, Failure.TLS_FAILED)
    assert receiver.received == []


def test_a_certificate_must_be_one_that_is_trusted(resolver: Resolver, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    resolver(hooks_test=[["127.0.0.1"]])
    with open_receiver(certificate=CERTIFICATE) as receiver:
        assert result(send(f"https://hooks.test:{receiver.port}/")) == (None, Failure.TLS_FAILED)
    assert receiver.received == []


def test_what_was_allowed_once_is_checked_when_it_is_sent(receiver: Receiver, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    assert result(send(receiver.url)) == (None, Failure.ADDRESS_NOT_ALLOWED)
    assert result(send(receiver.url.replace("http:", "https:"))) == (None, Failure.ADDRESS_NOT_ALLOWED)
    assert receiver.received == []


def test_an_address_that_does_not_answer_leaves_the_others(resolver: Resolver, receiver: Receiver) -> None:
    resolver(hooks_test=[["127.0.0.3", "::1", "127.0.0.1"]])
    assert result(send(f"http://hooks.test:{receiver.port}/")) == (200, None)


def test_the_proxy_of_the_environment_is_not_asked(
    receiver: Receiver, other_receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other_receiver.url)
    assert result(send(receiver.url)) == (200, None)
    assert (len(receiver.received), len(other_receiver.received)) == (1, 0)


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert result(send("https://hooks.test/")) == (None, Failure.NAME_NOT_RESOLVED)


def test_a_name_server_that_takes_all_the_time(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.WEBHOOK_TIMEOUT_SECONDS = 0
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 1))])
    assert result(send("http://hooks.test/")) == (None, Failure.TIMEOUT)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"", (None, Failure.CONNECTION_FAILED)),
        (b"SSH-2.0-OpenSSH_9.9\r\n", (None, Failure.INVALID_RESPONSE)),
        (b"HTTP/1.1 two hundred\r\n\r\n", (None, Failure.INVALID_RESPONSE)),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, (None, Failure.INVALID_RESPONSE)),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, (None, Failure.INVALID_RESPONSE)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off", (200, None)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", (200, None)),
        (b"HTTP/1.0 204\r\n\r\n", (204, None)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 -\r\n\r\n", (500, None)),
    ],
)
def test_the_status_decides_and_nonsense_is_no_answer(
    settings: Any, response: bytes, expected: tuple[int | None, str | None]
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True

    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(response)

    with raw_server(handle) as url:
        assert result(send(url)) == expected


def test_of_a_huge_answer_little_is_read(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    sent = 0

    def handle(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 65_536)

    with raw_server(handle) as url:
        assert result(send(url)) == (200, None)
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", (None, Failure.TIMEOUT)),
        (b"HTTP/1.1 200 OK\r\nX: ", (None, Failure.TIMEOUT)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", (200, None)),
    ],
)
def test_dripping_bytes_do_not_stretch_the_time(
    settings: Any, head: bytes, expected: tuple[int | None, str | None]
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.WEBHOOK_TIMEOUT_SECONDS = 0.5

    def handle(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(head)
        connection.settimeout(0.05)
        while True:
            connection.sendall(b"x")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                pass

    started = time.monotonic()
    with raw_server(handle) as url:
        answer = send(url)
    assert result(answer) == expected
    assert 0.4 < time.monotonic() - started < 5
    assert 400 < answer.milliseconds < 5_000


def test_a_receiver_that_accepts_and_is_silent(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.WEBHOOK_TIMEOUT_SECONDS = 0.3

    def handle(connection: socket.socket) -> None:
        while connection.recv(65_536):
            pass

    for scheme in ("http", "https"):
        with raw_server(handle) as url:
            assert result(send(url.replace("http", scheme))) == (None, Failure.TIMEOUT)
