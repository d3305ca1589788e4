"""The networks that a key may be used from."""

from collections.abc import Iterable
from ipaddress import ip_network

from common.addresses import Address, Network
from common.errors import HoneError

MAX_NETWORKS = 100


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
