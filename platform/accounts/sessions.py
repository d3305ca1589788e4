"""Session tokens: what a signed-in person sends in the header ``X-Session-Token``.

A token is the key of a row of ``django_session`` and its keyed digest. The row alone makes no token: who reads the
database, or a copy of it, cannot sign in with what is there.
"""

import hmac
import re
from hashlib import sha256

from allauth.headless.tokens.strategies.base import AbstractTokenStrategy
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest

_TOKEN = re.compile(r"hone_st_([0-9a-z]{32})_([0-9a-f]{64})", re.ASCII)


def session_key_of(token: str) -> str | None:
    """The key of the session that a token of ours stands for; whether that exists is another question."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match and hmac.compare_digest(match[2], _digest(match[1])) else None


class SessionTokens(AbstractTokenStrategy):
    """How django-allauth makes tokens and finds their sessions."""

    def create_session_token(self, request: HttpRequest) -> str:
        """The token of the request's session, which is stored now if it was not."""
        if not request.session.session_key:
            request.session.save()
        key = str(request.session.session_key)
        return f"hone_st_{key}_{_digest(key)}"

    def lookup_session(self, session_token: str) -> SessionBase | None:
        """The session of a token; None when there is none, or it has ended."""
        key = session_key_of(session_token)
        if key is None:
            return None
        session = SessionStore(session_key=key)
        session.get(SESSION_KEY)  # loads it, which forgets the key of one that is not there
        return session if session.session_key else None


def _digest(key: str) -> str:
    return hmac.digest(settings.KEY_PEPPER, f"session:{key}".encode(), sha256).hex()
