"""Secrets and personal data are found by kind; what only looks like them is not.

The examples are put together here, so that nobody's scanner takes this file for a leak.
"""

import base64

import pytest

from files.sensitive import kinds_in


def jwt(head: bytes = b'{"alg":"HS256","typ":"JWT"}') -> str:
    parts = (head, b'{"sub":"somebody"}', b"a signature that nobody checks")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


FOUND = [
    ("private_key", "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE..."),
    ("private_key", "-----BEGIN OPENSSH " + "PRIVATE KEY-----"),
    ("aws_access_key", "id AKIA" + "IOSFODNN7EXAMPLE."),
    ("github_token", "ghp_" + "a1B2" * 9),
    ("github_token", "github_pat_" + "11ABCDEFG0" * 3),
    ("gitlab_token", "glpat-" + "a1B2c3D4e5" * 2),
    ("slack_token", "xoxb-" + "123456789012-abcdefghij"),
    ("stripe_key", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"),
    ("google_api_key", "AIza" + "SyA1234567890abcdefghijklmnopqrstuv"),
    ("hone_key", "hone_sk_" + "0123456789abcdef_" + "Zx9" * 10),
    ("model_api_key", "sk-proj-" + "a1B2c3D4e5" * 3),
    ("jwt", f"Authorization: Bearer {jwt()}"),
    ("password", "The password is hunter2hunter2"),
    ("password", '{"password": "s3cr3t-enough"}'),
    ("email", "Write to anna.maria+shop@mail.example.co.uk, please"),
    ("phone", "Call +44 20 7946 0958 or come by"),
    ("phone", "+4930901820"),
    ("credit_card", "4111 1111 1111 1111"),
    ("credit_card", "card 5555555555554444, valid 12/29"),
    ("credit_card", "3782-822463-10005"),
    ("credit_card", "4111111111111111 12/29"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "to GB29NWBK60161331926819 please"),
    ("us_social_security", "SSN 219-09-9999"),
    ("chinese_id", "身份证 11010519491231002X"),
]
NOT_FOUND = [
    "",
    "@united please follow @someone at 5",
    "sk-learn and sk-something-without-digits-at-all",
    "4111 1111 1111 1112",  # the check digit is wrong
    "3782 8224 6310 0055",  # no issuer has such numbers
    "order 4000000000000000000000 is too long for a card",
    "DE89 3704 0044 0532 0130 01",
    "GB00NWBK60161331926819",
    "+1 234 nobody has such a number",
    "+49 12",
    "000-12-3456 or 666-12-3456 or 123-00-4567",
    "110105194912310021",
    "2024-01-15 12:30:45.123456",
    "ghp_short",
    "AKIA in a sentence, AKIA123",
    "eyJ" + "hbGciOi" + ".not.ajwt",
    jwt(b'{"typ":"no algorithm"}'),
    "The password is wrong",
    "password: ........",
    "a@b",
    "version 1.2.3.4 of x@2.0",
]


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_it_is_found(kind: str, text: str) -> None:
    assert kinds_in(text) == [kind]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_alike_is_not_found(text: str) -> None:
    assert kinds_in(text) == []


def test_several_kinds_are_each_named_once() -> None:
    assert kinds_in("a@example.com b@example.com 4111111111111111") == ["email", "credit_card"]


def test_a_text_that_invites_backtracking_takes_no_time() -> None:
    for text in (
        "a@" + "b." * 20_000,
        "1-" * 20_000,
        "+1" + " 2" * 20_000,
        "AA11" + " AAAA" * 10_000,
        "password" * 9_000,
    ):
        assert kinds_in(text) == []
