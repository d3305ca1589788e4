"""The first operator."""

import os
from collections.abc import Callable
from io import StringIO

import pytest
from django.contrib.auth.hashers import check_password
from django.core.management import CommandError, call_command

from accounts.models import User
from accounts.services import get_or_create_user
from common.database import SYSTEM
from tests.support.threads import at_once

PASSWORD = "correct horse battery"


@pytest.fixture
def create(database: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command with this on standard input."""

    def run(typed: str = f"{PASSWORD}\n", email: str = "Olga@Example.com") -> str:
        reading, writing = os.pipe()
        os.write(writing, typed.encode())
        os.close(writing)
        out = StringIO()
        with os.fdopen(reading) as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            call_command("create_operator", email=email, stdout=out)
        return out.getvalue()

    return run


def users() -> list[User]:
    return list(User.objects.using(SYSTEM).order_by("email"))


def test_an_operator_signs_in_with_the_password_from_standard_input(create: Callable[..., str]) -> None:
    said = create()
    (user,) = users()
    assert (user.email, user.is_operator, user.is_active) == ("olga@example.com", True, True)
    assert check_password(PASSWORD, user.password)
    assert said == f"olga@example.com is an operator (user-{user.id.hex})\n"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\nmore\n"])
def test_a_password_ends_with_its_line(create: Callable[..., str], ending: str) -> None:
    create(PASSWORD + ending)
    assert check_password(PASSWORD, users()[0].password)


def test_a_known_person_becomes_an_operator(create: Callable[..., str]) -> None:
    known = get_or_create_user(email="olga@example.com")
    assert not known.has_usable_password()
    create()
    create("another horse battery\n")
    (user,) = users()
    assert user.id == known.id
    assert check_password("another horse battery", user.password)


@pytest.mark.parametrize("password", ["", "short", "836104927158", "qwertyuiop123", "olga@example.com"])
def test_a_weak_password_makes_nobody_an_operator(create: Callable[..., str], password: str) -> None:
    get_or_create_user(email="olga@example.com")
    before = [(user.email, user.password, user.is_operator) for user in users()]
    with pytest.raises(CommandError, match=r"password"):
        create(f"{password}\n", email="olga.new@example.com")
    with pytest.raises(CommandError, match=r"password"):
        create(f"{password}\n")
    assert [(user.email, user.password, user.is_operator) for user in users()] == before


@pytest.mark.parametrize("email", ["", "olga", "olga@", "a" * 250 + "@example.com"])
def test_what_is_no_address_makes_nobody_an_operator(create: Callable[..., str], email: str) -> None:
    with pytest.raises(CommandError, match="Not an e-mail address"):
        create(email=email)
    assert users() == []


def test_a_password_is_never_an_argument(database: None) -> None:
    with pytest.raises(TypeError, match="password"):
        call_command("create_operator", email="olga@example.com", password=PASSWORD)
    assert users() == []


def test_a_person_is_made_once_however_many_ask(database: None) -> None:
    made = at_once(*[lambda: get_or_create_user(email=" Bob@Example.com ").id] * 4)
    assert len(set(made)) == 1
    assert [user.email for user in users()] == ["bob@example.com"]
