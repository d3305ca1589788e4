"""Whom a request is from, behind proxies that are trusted and others."""

from ipaddress import ip_network

import pytest

from common.addresses import client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("2001:db8:a::/48")]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # anybody may send the header
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the client began the list itself
        ("10.0.0.1", "203.0.113.7, 10.0.0.2,10.0.0.3", "203.0.113.7"),
        ("10.0.0.1", "10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("10.0.0.1", "[2001:db8::7]", "2001:db8::7"),
        ("2001:db8:a::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7, unknown", None),
        ("10.0.0.1", "203.0.113.7, 999.1.1.1", None),
        ("", "203.0.113.7", None),
    ],
)
def test_the_address_of_a_client(peer: str, forwarded_for: str, address: str | None) -> None:
    found = client_address(peer=peer, forwarded_for=forwarded_for, proxies=PROXIES)
    assert (str(found) if found else None) == address
