"""Where a request comes from, and whether a key may be used from there."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from common.errors import HoneError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_NETWORKS = 100
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]+)\](?::\d+)?|(?P<v4>[0-9.]+):\d+", re.ASCII)


def client_address(*, peer: str, forwarded_for: str, proxies: Sequence[Network]) -> Address | None:
    """The address of who sent a request, as far as it can be known; None when it cannot.

    Each proxy appends to ``X-Forwarded-For`` whom it heard, and anybody may begin that list: it is read from its end,
    and believed only as far as trusted ``proxies`` wrote it.
    """
    said = [entry.strip() for entry in forwarded_for.split(",") if entry.strip()]
    address = _address(peer)
    while address is not None and said and any(address in network for network in proxies):
        address = _address(said.pop())
    return address


def is_within(address: Address, networks: Iterable[str]) -> bool:
    """Whether one of the networks, in CIDR notation, holds the address."""
    return any(address in ip_network(network) for network in networks)


def checked_networks(texts: list[str] | None, *, param: str) -> list[str] | None:
    """The networks in their canonical notation, each once; an address alone is a network of one; None is anywhere.

    Raises ``invalid_value``.
    """
    if texts is None:
        return None
    if not 0 < len(texts) <= MAX_NETWORKS:
        raise HoneError("invalid_value", f"'{param}' takes 1 to {MAX_NETWORKS} networks, or null", param=param)
    try:
        return list(dict.fromkeys(str(_network(text)) for text in texts))
    except ValueError as error:
        message = f"'{param}' takes networks such as 203.0.113.0/24: {error}"
        raise HoneError("invalid_value", message, param=param) from error


def _network(text: str) -> Network:
    if "%" in text:
        raise ValueError(f"{text!r} is of one machine's interface")
    return ip_network(text)


def _address(text: str) -> Address | None:
    with_port = _WITH_PORT.fullmatch(text)
    try:
        address = ip_address((with_port["v6"] or with_port["v4"]) if with_port else text)
    except ValueError:
        return None
    # An IPv4 client of a socket that takes both.
    return getattr(address, "ipv4_mapped", None) or address
