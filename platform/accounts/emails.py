"""What people are told by e-mail, in plain text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Letter:
    """What a message says."""

    subject: str
    body: str


Writer = Callable[[str], Letter | None]

_writers: dict[str, Writer] = {}

_CODE = """{intention}, enter this code where you asked for it:

    {code}

It is valid for 15 minutes. If it was not you who asked, nothing needs to be done."""

_EXISTS = """Somebody, probably you, has tried to sign up with this e-mail address, which has an account already.

Sign in with it, or reset its password if that is lost. If it was not you, nothing needs to be done."""

_SECURITY = """{event} ({ip}).

If this was not you, reset your password at once and end the other sessions of your account."""

_TEXTS: dict[str, tuple[str, str]] = {
    "email_confirmation": (
        "Confirm your e-mail address",
        _CODE.replace("{intention}", "To confirm your e-mail address"),
    ),
    "password_reset_code": ("Reset your password", _CODE.replace("{intention}", "To choose another password")),
    "account_already_exists": (
        "You have an account already",
        _EXISTS,
    ),
    "password_changed": ("Your password was changed", _SECURITY.replace("{event}", "Your password was changed")),
    "password_set": ("A password was set", _SECURITY.replace("{event}", "A password was set for your account")),
    "password_reset": ("Your password was reset", _SECURITY.replace("{event}", "Your password was reset")),
    "totp_activated": (
        "Two-factor sign-in is on",
        _SECURITY.replace("{event}", "An authenticator app was added to your account"),
    ),
    "totp_deactivated": (
        "Two-factor sign-in is off",
        _SECURITY.replace("{event}", "The authenticator app was removed from your account"),
    ),
    "recovery_codes_generated": (
        "New recovery codes",
        _SECURITY.replace("{event}", "New recovery codes were made for your account; the earlier ones are void"),
    ),
}
_SAME = {"email_confirmation_signup": "email_confirmation"}


def register_writer(*, prefix: str, write: Writer) -> None:
    """Have ``write`` called with the wire id of a thing, one with this prefix, when a letter about it is sent.

    So no secret lies in the outbox. None takes the letter back: the thing has ended meanwhile.
    """
    _writers[prefix] = write


def write_about(wire_id: str) -> Letter | None:
    """The letter about a thing, as of now; None when there is no reason for one any more."""
    for prefix, write in _writers.items():
        if wire_id.startswith(prefix):
            return write(wire_id)
    raise LookupError(f"nobody writes about {wire_id}")


def email_text(kind: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and body of a kind of message, by allauth's name for it. The context holds ``code`` or ``ip``."""
    subject, body = _TEXTS[_SAME.get(kind, kind)]
    return subject, body.format_map(context)
