"""From nobody to somebody: signing up, and what others can learn from it."""

import json
import logging
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from allauth.headless.account.views import SignupView
from django.core import mail
from django.test import RequestFactory

from accounts.api import person_view
from accounts.models import User
from accounts.services import get_or_create_user
from tests.support.facts import query_owner
from tests.support.server import Server
from tests.support.sign_in import PASSWORD, Person, code_for, let_throttles_pass, letters, make_person
from tests.support.threads import at_once


def people() -> int:
    return User.objects.count()


def flows(answer: Any) -> list[str]:
    return [flow["id"] for flow in answer.json()["data"]["flows"] if flow.get("is_pending")]


def test_somebody_signs_up_and_is_signed_in_once_the_address_is_verified(database: None) -> None:
    person = Person("Ada@Example.com")
    answer = person.sign_up()
    assert (answer.status_code, flows(answer)) == (401, ["verify_email"])
    assert answer.json()["meta"] == {"is_authenticated": False, "session_token": person.token}
    assert str(person.token).startswith("hone_st_")
    assert person.auth("GET", "auth/session").status_code == 401
    answer = person.auth("POST", "auth/email/verify", key=code_for("ada@example.com"))
    user = User.objects.get()
    assert answer.status_code == 200
    assert answer.json()["data"]["user"] == {"id": user.wire_id, "email": "ada@example.com", "name": ""}
    assert person.auth("GET", "auth/session").json()["data"]["user"]["id"] == user.wire_id
    assert (people(), user.email, user.is_operator) == (1, "ada@example.com", False)


def test_an_address_that_is_not_verified_opens_nothing(database: None) -> None:
    person = Person("ada@example.com")
    person.sign_up()
    for route in ("auth/sessions", "account/authenticators", "account/authenticators/totp"):
        assert person.auth("GET", route).status_code == 401
    assert person.sign_in().json()["errors"][0]["code"] == "too_many_login_attempts"  # a code was sent just now
    let_throttles_pass()
    assert flows(person.sign_in()) == ["verify_email"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"password": PASSWORD}, "email", "required"),
        ({"email": "nobody", "password": PASSWORD}, "email", "invalid"),
        ({"email": "a\0@example.com", "password": PASSWORD}, "email", "null_characters_not_allowed"),
        ({"email": f"{'a' * 250}@example.com", "password": PASSWORD}, "email", "max_length"),
        ({"email": "ada@example.com"}, "password", "required"),
        ({"email": "ada@example.com", "password": "short"}, "password", "password_too_short"),
        ({"email": "ada@example.com", "password": "1234567890123"}, "password", "password_entirely_numeric"),
    ],
)
def test_bad_input_is_named(database: None, fields: dict[str, str], param: str, code: str) -> None:
    answer = Person("ada@example.com").auth("POST", "auth/signup", **fields)
    assert answer.status_code == 400
    assert (param, code) in [(error["param"], error["code"]) for error in answer.json()["errors"]]
    assert (people(), letters("ada@example.com")) == (0, [])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"), (b"[]", 400, "invalid_json"), (b'"text"', 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"), (b"[" * 5_000, 400, "invalid_json"),
        (b'{"email": "\\ud800"}', 400, "invalid_json"), (b'{"email": {"a": 1}}', 400, "invalid_type"),
        (b'{"email": null}', 400, "invalid_type"), (b'{"email": [["a"]]}', 400, "invalid_type"),
        (b" " * 65_537, 413, "request_too_large"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_flat_object_is_refused(database: None, body: bytes, status: int, code: str) -> None:
    answer = Person("ada@example.com")._client.generic(
        "POST", "/_allauth/app/v1/auth/signup", body, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert people() == 0


def test_a_body_that_is_cut_off(database: None) -> None:
    class Cut(BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError("gone")

    request = RequestFactory().post("/_allauth/app/v1/auth/signup", b"{", content_type="application/json")
    request._stream = Cut()
    answer = person_view(SignupView)(request)
    assert (answer.status_code, json.loads(answer.content)["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(("method", "route"), [("GET", "auth/login"), ("PUT", "auth/session"), ("PATCH", "config")])
def test_a_method_that_a_route_does_not_take(database: None, method: str, route: str) -> None:
    answer = Person("ada@example.com").auth(method, route)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("route", ["account/phone", "account/email", "auth/phone/verify", "auth/code/request", ""])
def test_what_is_not_offered_is_no_route(database: None, route: str) -> None:
    answer = Person("ada@example.com").auth("POST", route)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_signing_up_tells_nobody_who_has_an_account(database: None) -> None:
    make_person("Ada")
    get_or_create_user(email="invited@example.com")
    mail.outbox.clear()
    let_throttles_pass()
    before = query_owner("SELECT id, password FROM accounts_user ORDER BY id")
    answers = []
    for address in ("ada@example.com", "invited@example.com", "new@example.com"):
        stranger = Person(address, password="another horse battery")
        answers.append((stranger.sign_up(), stranger))
    shapes = [(answer.status_code, answer.json()["data"], answer.json()["meta"].keys()) for answer, _ in answers]
    assert shapes[0] == shapes[1] == shapes[2]
    assert query_owner("SELECT id, password FROM accounts_user ORDER BY id")[:2] == before
    for address in ("ada@example.com", "invited@example.com"):
        (letter,) = letters(address)
        assert letter.subject == "You have an account already"
    for answer, stranger in answers:
        assert str(stranger.token) not in str(letters(stranger.email)[0].body)
        assert stranger.auth("POST", "auth/email/verify", key="AAAA-AAAA").status_code == 400
        assert answer.status_code == 401


def test_two_sign_ups_with_one_address_at_once_make_one_person(database: None) -> None:
    one, other = Person("ada@example.com"), Person("ada@example.com")
    answers = at_once(one.sign_up, other.sign_up)
    assert people() == 1
    assert {answer.status_code for answer in answers} <= {401, 409, 429}
    assert 401 in {answer.status_code for answer in answers}


def test_a_code_is_wrong_three_times_at_most(database: None) -> None:
    person = Person("ada@example.com")
    person.sign_up()
    code = code_for(person.email)
    wrong = [person.auth("POST", "auth/email/verify", key="AAAA-AAAA").status_code for _ in range(3)]
    assert wrong == [400, 400, 400]
    assert person.auth("POST", "auth/email/verify", key=code).status_code == 409
    assert person.auth("GET", "auth/session").status_code == 401


def test_guesses_at_the_same_moment_are_counted_one_by_one(database: None) -> None:
    person = Person("ada@example.com")
    person.sign_up()
    guesses = [lambda: person.auth("POST", "auth/email/verify", key="AAAA-AAAA").status_code] * 6
    assert sorted(at_once(*guesses)) == [400, 400, 400, 409, 409, 409]


def test_a_code_can_be_sent_again(database: None) -> None:
    person = Person("ada@example.com")
    person.sign_up()
    first = code_for(person.email)
    assert person.auth("POST", "auth/email/verify/resend").status_code == 429
    let_throttles_pass()
    assert person.auth("POST", "auth/email/verify/resend").status_code == 200
    second = code_for(person.email)
    assert first != second
    assert person.auth("POST", "auth/email/verify", key=first).status_code == 400
    assert person.auth("POST", "auth/email/verify", key=second).status_code == 200


def test_neither_passwords_nor_codes_nor_tokens_are_logged(database: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    person = make_person("Ada")
    code = letters(person.email)[0].body
    person.sign_in()
    person.password = "wrong horse battery"
    person.sign_in()
    lines = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "/auth/login" in lines
    secrets = [PASSWORD, person.password, str(code).splitlines()[2].strip(), person.email]
    assert [secret for secret in secrets if secret in lines] == []


def test_no_log_line_of_a_server_holds_what_people_sign_in_with(database: None, server: Server) -> None:
    # The lines as they are written, through the whole chain (caplog sees records before it).
    def post(path: str, fields: dict[str, str], token: str = "") -> Any:
        headers = {"Content-Type": "application/json", **({"X-Session-Token": token} if token else {})}
        try:
            answer = urlopen(Request(server.url + path, json.dumps(fields).encode(), headers), timeout=30)
        except HTTPError as refused:
            answer = refused
        with answer:
            return json.load(answer)

    address, code_route = "ada@example.com", "/_allauth/app/v1/auth/email/verify"
    signed_up = post("/_allauth/app/v1/auth/signup", {"email": address, "password": PASSWORD})
    code = code_for(address)
    verified = post(code_route, {"key": code}, signed_up["meta"]["session_token"])
    token = verified["meta"]["session_token"]
    post(f"/v1/{token}?token={token}", {"name": token}, token)
    post("/v1/organizations", {"name": token, token: token}, token)
    log = server.log()
    assert "hone_st_***" in log
    assert log.count('"/_allauth/app/v1/auth/') == 2
    assert [secret for secret in (PASSWORD, address, code, token, token.rpartition("_")[2]) if secret in log] == []
