"""Secrets and personal data in texts: of what kind, never what they are.

Few patterns that are seldom wrong, each held to whatever it can be checked by: a prefix that one issuer alone uses, a
checksum, the plan of telephone numbers. What has no such mark (names, addresses, national telephone numbers) is not
found.
"""

import re
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from phonenumbers import NumberParseException, is_valid_number, parse


@dataclass(frozen=True)
class _Kind:
    """What is looked for. A text without any of the ``marks`` is not searched: most have none."""

    name: str
    is_secret: bool
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _: True


def _is_card(text: str) -> bool:
    """An issuer's first digits, its length, and the check digit of payment cards (ISO/IEC 7812-1)."""
    number = re.sub(r"[ -]", "", text)
    if not re.fullmatch(r"4(\d{12}|\d{15}|\d{18})|(5[1-5]|2[2-7])\d{14}|3[47]\d{13}|6(011|5\d\d)\d{12}", number):
        return False
    digits = [int(digit) for digit in reversed(number)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The check digits of bank accounts (ISO 13616): the number, read with its first four places last, is 1 mod 97."""
    number = re.sub(r"[ -]", "", text).upper()
    if not 15 <= len(number) <= 34:
        return False
    return int("".join(str(int(place, 36)) for place in number[4:] + number[:4])) % 97 == 1


def _is_chinese_id(text: str) -> bool:
    """The check character of resident identity cards (GB 11643-1999, ISO 7064 MOD 11-2)."""
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def _is_phone(text: str) -> bool:
    try:
        return is_valid_number(parse(text))
    except NumberParseException:
        return False


def _is_jwt(text: str) -> bool:
    head = text.partition(".")[0]
    try:
        return "alg" in orjson.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (Base64Error, orjson.JSONDecodeError, TypeError):
        return False


_KINDS = (
    _Kind("private_key", True, ("PRIVATE KEY",), re.compile(r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY(?: BLOCK)?-----")),
    _Kind("aws_access_key", True, ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    _Kind(
        "github_token",
        True,
        ("gh", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[0-9A-Za-z]{36,255}|github_pat_\w{22,255})\b", re.ASCII),
    ),
    _Kind("gitlab_token", True, ("glpat-",), re.compile(r"\bglpat-[\w-]{20,}", re.ASCII)),
    _Kind("slack_token", True, ("xox",), re.compile(r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}")),
    _Kind("stripe_key", True, ("k_live_", "k_test_"), re.compile(r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}")),
    _Kind("google_api_key", True, ("AIza",), re.compile(r"\bAIza[\w-]{35}(?![\w-])", re.ASCII)),
    _Kind("hone_key", True, ("hone_",), re.compile(r"\bhone_[asw]k_[0-9a-f]{16}_\w{16,}", re.ASCII)),
    _Kind("model_api_key", True, ("sk-",), re.compile(r"\bsk-(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{20,}", re.ASCII)),
    _Kind("jwt", True, ("eyJ",), re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}", re.ASCII), _is_jwt),
    _Kind(
        "password",
        True,
        ("assw", "PASSW", "wd:", "wd="),
        re.compile(
            r"\b(?:password|passwort|passwd|pwd)\b[\"']?\s{0,3}(?:[:=]|is)\s{0,3}[\"']?(?=\S*\d)\S{8,}", re.IGNORECASE
        ),
    ),
    _Kind("email", False, ("@",), re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")),
    _Kind("phone", False, ("+",), re.compile(r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){6,14}(?!\d)"), _is_phone),
    _Kind(
        "credit_card",
        False,
        tuple("23456"),
        re.compile(
            r"(?<![\w.-])[2-6]\d{3}(?:\d{9,15}|([ -])\d{4}\1\d{4}\1\d{1,7}|([ -])\d{6}\2\d{5})(?![\w-])", re.ASCII
        ),
        _is_card,
    ),
    _Kind(
        "iban",
        False,
        tuple("0123456789"),
        re.compile(r"\b[A-Z]{2}\d\d(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,4})?\b"),
        _is_iban,
    ),
    _Kind(
        "us_social_security",
        False,
        ("-",),
        re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])", re.ASCII),
    ),
    _Kind(
        "chinese_id",
        False,
        ("19", "20"),
        re.compile(r"(?<!\w)[1-8]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\w)", re.ASCII),
        _is_chinese_id,
    ),
)
SECRETS = frozenset(kind.name for kind in _KINDS if kind.is_secret)
"""Kinds that open something; the others are about people."""


def kinds_in(text: str) -> list[str]:
    """The kinds of secrets and personal data that a text holds."""
    return [
        kind.name
        for kind in _KINDS
        if any(mark in text for mark in kind.marks) and any(map(kind.holds, _matches(kind.pattern, text)))
    ]


def _matches(pattern: re.Pattern[str], text: str) -> list[str]:
    return [match[0] for match in pattern.finditer(text)]
