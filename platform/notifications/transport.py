"""POST to a customer's server, and to nothing else that this machine can reach.

HTTPS on public addresses alone. The name is looked up here, once: when any of its addresses is not public nothing is
sent, and the connection goes to one of exactly those addresses, so that a name which changes its mind between check
and use gains nothing. Certificate and ``Host`` are the name's. No redirects, no proxies from the environment, no
credentials. One deadline holds for all of it, however slowly the other side drips its bytes.
"""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from common.errors import HoneError
from notifications.models import Failure

MAX_URL = 2048
MAX_RESPONSE_BYTES = 16 * 1024
"""Read, so that the other side can finish its answer, and thrown away."""
MAX_ADDRESSES = 4

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])", re.ASCII)
_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
# Global by the letter of the registries, or in some versions of `ipaddress`, and yet not the public internet.
_NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's platform service
        "2001::/23",  # protocol assignments, among them Teredo, which holds an IPv4 address
        "2002::/16",  # 6to4, likewise
        "3fff::/20",  # documentation
    )
]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a request. ``status`` is None when there was no answer, and ``error`` then says why."""

    status: int | None = None
    error: Failure | None = None
    milliseconds: int = 0

    @property
    def is_success(self) -> bool:
        """Whether the other side has taken it."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class _Destination:
    scheme: str
    host: str
    port: int
    authority: str
    target: str


class _FailedError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclass(frozen=True)
class _Deadline:
    """In monotonic seconds."""

    at: float

    def remaining(self) -> float:
        """Seconds; TimeoutError when none are left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def check_url(url: str) -> None:
    """Refuse what could never be sent to, with ``invalid_value``. Names are looked up when something is sent."""
    try:
        destination = _parse(url)
    except ValueError as error:
        raise HoneError("invalid_value", f"Invalid value for 'url': {error}", param="url") from error
    address = _literal(destination.host)
    if address is not None and not _is_allowed(address):
        raise HoneError("invalid_value", "Invalid value for 'url': the address is not a public one", param="url")


def post(*, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
    """Send, within ``settings.WEBHOOK_TIMEOUT_SECONDS``. Never raises for anything that the other side does."""
    started = time.monotonic()
    deadline = _Deadline(started + settings.WEBHOOK_TIMEOUT_SECONDS)
    status, error = None, None
    try:
        status = _exchange(_destination(url), headers, body, deadline)
    except _FailedError as failed:
        error = failed.failure
    except TimeoutError:
        error = Failure.TIMEOUT
    except ssl.SSLError:
        error = Failure.TLS_FAILED
    except OSError:
        error = Failure.CONNECTION_FAILED
    except http.client.HTTPException:
        error = Failure.INVALID_RESPONSE
    return Answer(status=status, error=error, milliseconds=round((time.monotonic() - started) * 1000))


def _parse(url: str) -> _Destination:
    """Raises ValueError with what is wrong."""
    if len(url) > MAX_URL:
        raise ValueError(f"at most {MAX_URL} characters")
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise ValueError("printable ASCII without blanks (encode the rest: %20, xn--...)")
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.WEBHOOK_ALLOW_PRIVATE):
        raise ValueError("the URL must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("the URL must not hold a user name or password")
    if "#" in url:
        raise ValueError("the URL must not hold a fragment")
    host, port = parts.hostname or "", parts.port
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    if not settings.WEBHOOK_ALLOW_PRIVATE:
        if _literal(host) is None and not _NAME.fullmatch(host):
            raise ValueError("the host must be a full domain name or an IP address")
        if host.endswith((".localhost", ".local", ".internal")):
            raise ValueError("the host is not a public name")
        # Below 1024 live mail servers and the like, which nobody may pester through this installation.
        if port != 443 and port < 1024:
            raise ValueError("the port must be 443, or 1024 and above")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Destination(parts.scheme, host, port, parts.netloc.lower(), target)


def _destination(url: str) -> _Destination:
    try:
        return _parse(url)
    except ValueError as error:  # the rules have changed since the URL was taken
        raise _FailedError(Failure.ADDRESS_NOT_ALLOWED) from error


def _exchange(destination: _Destination, headers: Mapping[str, str], body: bytes, deadline: _Deadline) -> int:
    with _connected(destination, deadline) as sock:
        connection = http.client.HTTPConnection(destination.host, destination.port)
        # Given a socket, http.client makes none; all that it asks of one are these three methods.
        connection.sock = _Wire(sock, deadline)
        fixed = {"Host": destination.authority, "Connection": "close", "User-Agent": "Hone-Webhooks/1", "Accept": "*/*"}
        connection.request("POST", destination.target, body, {**fixed, "Content-Type": "application/json", **headers})
        response = connection.getresponse()
        # The status decides, whatever becomes of the rest.
        with suppress(OSError, http.client.HTTPException):
            response.read(MAX_RESPONSE_BYTES)
        return response.status


@contextmanager
def _connected(destination: _Destination, deadline: _Deadline) -> Iterator[socket.socket]:
    with _dial(_look_up(destination, deadline), deadline) as sock:
        if destination.scheme == "http":
            yield sock
            return
        sock.settimeout(deadline.remaining())
        with _tls().wrap_socket(sock, server_hostname=destination.host) as wrapped:
            yield wrapped


def _dial(addresses: list[tuple[int, Any]], deadline: _Deadline) -> socket.socket:
    """Connect to the first that answers; one that does not must leave time for the next."""
    (family, address), *others = addresses
    try:
        with ExitStack() as on_failure:
            sock = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.settimeout(deadline.remaining() / len(addresses))
            sock.connect(address)
            on_failure.pop_all()
            return sock
    except OSError:
        if not others:
            raise
        return _dial(others, deadline)


def _look_up(destination: _Destination, deadline: _Deadline) -> list[tuple[int, Any]]:
    """Families and socket addresses, every one of them allowed."""
    try:
        found = socket.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _FailedError(Failure.NAME_NOT_RESOLVED) from error
    if not all(_is_allowed(ip_address(address[0])) for *_, address in found):
        raise _FailedError(Failure.ADDRESS_NOT_ALLOWED)
    deadline.remaining()  # a resolver keeps times of its own
    return [(family, address) for family, *_, address in found[:MAX_ADDRESSES]]


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_allowed(address: IPv4Address | IPv6Address) -> bool:
    return bool(settings.WEBHOOK_ALLOW_PRIVATE) or _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the public internet, by the strictest reading."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(IPv4Address(address.packed[-4:]))
        if address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOT_PUBLIC)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Wire:
    """A socket as http.client wants one, all of whose waiting ends at one deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._sock.settimeout(self._deadline.remaining())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """For reading."""
        return io.BufferedReader(_Incoming(self._sock, self._deadline))

    def close(self) -> None:
        """Left to whoever has opened the socket: http.client closes it before the body has been read."""


class _Incoming(io.RawIOBase):
    """What arrives: the time that is left is measured anew at every piece, or dripped bytes would never end."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        self._sock.settimeout(self._deadline.remaining())
        return self._sock.recv_into(buffer)
