"""Where a request comes from, behind proxies too."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](?::\d+)?|(?P<v4>[0-9.]+):\d+", re.ASCII)


def address_of(request: HttpRequest) -> Address | None:
    """The address of who sent a request, as far as it can be known; None when it cannot."""
    return client_address(
        peer=request.META.get("REMOTE_ADDR", ""),
        forwarded_for=request.headers.get("X-Forwarded-For", ""),
        proxies=settings.TRUSTED_PROXIES,
    )


def client_address(*, peer: str, forwarded_for: str, proxies: Sequence[Network]) -> Address | None:
    """The same from its parts.

    Each proxy appends to ``X-Forwarded-For`` whom it heard, and anybody may begin that list: it is read from its end,
    and believed only as far as trusted ``proxies`` wrote it.
    """
    said = [entry.strip() for entry in forwarded_for.split(",") if entry.strip()]
    address = _address(peer)
    while address is not None and said and any(address in network for network in proxies):
        address = _address(said.pop())
    return address


def _address(text: str) -> Address | None:
    with_port = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((with_port["v6"] or with_port["v4"]) if with_port else text)
    except ValueError:
        return None
    # An IPv4 client of a socket that takes both.
    return getattr(address, "ipv4_mapped", None) or address
