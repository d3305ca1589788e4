"""People who sign up and in over HTTP, each from an address of their own."""

import secrets
import time
from typing import Any

import orjson
import redis
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.conf import settings
from django.core import mail
from django.test import Client

from accounts.services import send_due_emails
from tests.support.contract import hold_to_schema

PASSWORD = "correct horse battery"


class Person:
    """A client of the routes of django-allauth, and of ours, that keeps the session token it is given."""

    def __init__(self, email: str, *, password: str = PASSWORD, forwarded_for: str = "") -> None:
        self.email = email
        self.password = password
        self.token: str | None = None
        # Attempts are counted by address, across tests, too.
        self._client = Client(
            raise_request_exception=False,
            REMOTE_ADDR=f"10.{secrets.randbits(8)}.{secrets.randbits(8)}.7",
            headers={"X-Forwarded-For": forwarded_for},
        )

    def call(self, method: str, path: str, fields: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        """Any request with the session token."""
        session = {"X-Session-Token": self.token} if self.token else {}
        body = b"" if fields is None else orjson.dumps(fields)
        answer = self._client.generic(
            method, path, body, content_type="application/json", headers={**session, **(headers or {})}
        )
        hold_to_schema(answer, sent=fields)
        return answer

    def auth(self, method: str, route: str, **fields: Any) -> Any:
        """A request to a route of django-allauth; a new session token is kept."""
        answer = self.call(method, f"/_allauth/app/v1/{route}", fields or None)
        self.token = answer.json().get("meta", {}).get("session_token", self.token)
        if answer.status_code == 410:
            self.token = None
        return answer

    def sign_up(self) -> Any:
        """Ask for an account; the address is not verified yet."""
        return self.auth("POST", "auth/signup", email=self.email, password=self.password)

    def verify(self) -> Any:
        """Enter the code that came by e-mail."""
        return self.auth("POST", "auth/email/verify", key=code_for(self.email))

    def sign_in(self) -> Any:
        """Sign in with the password, in a new session."""
        self.token = None
        return self.auth("POST", "auth/login", email=self.email, password=self.password)

    def activate_totp(self) -> str:
        """Switch the second factor on, for which the password is asked once more; its secret."""
        self.auth("POST", "auth/reauthenticate", password=self.password)
        secret: str = self.auth("GET", "account/authenticators/totp").json()["meta"]["secret"]
        answer = self.auth("POST", "account/authenticators/totp", code=totp(secret))
        assert answer.status_code == 200, answer.content
        return secret


def make_person(name: str) -> Person:
    """Somebody with a verified address, signed in."""
    person = Person(f"{name.lower()}@example.com")
    assert person.sign_up().status_code == 401
    answer = person.verify()
    assert answer.status_code == 200, answer.content
    return person


def letters(address: str) -> list[mail.EmailMessage]:
    """What has been sent to an address, what waits included."""
    send_due_emails()
    return [message for message in mail.outbox if message.to == [address]]


def code_for(address: str) -> str:
    """The code in the last message to an address."""
    body = str(letters(address)[-1].body)
    return next(line.strip() for line in body.splitlines() if line.startswith("    "))


def totp(secret: str, *, later: int = 0) -> str:
    """What an authenticator app shows now, or some periods later."""
    return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30 + later)))


def let_throttles_pass(action: str = "*") -> None:
    """As if all attempts (of an action of django-allauth's rate limits) had been long ago."""
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        for key in client.scan_iter(f"hone:*:{action}:*"):
            client.delete(key)
