"""Reads about people."""

from django.contrib.auth import get_user
from django.http import HttpRequest

from accounts.models import User
from accounts.sessions import SessionTokens


def find_person(*, token: str) -> User | None:
    """The person who is signed in with a session token; None when nobody is.

    A sign-in that still waits for a code is nobody's, and a changed password ends every other session.
    """
    session = SessionTokens().lookup_session(token)
    if session is None:
        return None
    request = HttpRequest()
    request.session = session
    user = get_user(request)  # active, and with the password that the session was opened with
    return user if isinstance(user, User) else None
