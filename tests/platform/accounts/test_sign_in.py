"""Signing in: passwords, second factors, sessions, throttles."""

from ipaddress import ip_network
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core import mail
from pytest_django import Settings

from accounts.models import User
from accounts.selectors import find_person
from accounts.services import create_operator, get_or_create_user
from common import cache
from tests.services import running
from tests.support.facts import change, count, query_owner
from tests.support.sign_in import Person, code_for, let_throttles_pass, letters, make_person, totp
from tests.support.tables import query
from tests.support.threads import at_once

NEW = "staple battery horse"


@pytest.fixture(autouse=True)
def tolerant(settings: Settings) -> None:
    """A code of this period is also good in the next one, which may begin at any moment of a test."""
    settings.MFA_TOTP_TOLERANCE = 1


@pytest.fixture
def ada(database: None) -> Person:
    person = make_person("Ada")
    let_throttles_pass()
    mail.outbox.clear()
    return person


def again(person: Person) -> Person:
    """The same person at another computer, not signed in."""
    return Person(person.email, password=person.password)


def errors(answer: Any) -> list[str]:
    return [error["code"] for error in answer.json()["errors"]]


def pending(answer: Any) -> list[str]:
    return [flow["id"] for flow in answer.json()["data"]["flows"] if flow.get("is_pending")]


def is_signed_in(person: Person) -> bool:
    return bool(person.token) and find_person(token=str(person.token)) is not None


def test_with_the_right_password(ada: Person) -> None:
    other = again(ada)
    answer = other.sign_in()
    assert answer.status_code == 200
    assert answer.json()["meta"] == {"is_authenticated": True, "session_token": other.token}
    assert other.token != ada.token
    assert is_signed_in(other)
    assert is_signed_in(ada)


def test_the_address_is_read_in_any_case(ada: Person) -> None:
    assert Person("ADA@Example.COM", password=ada.password).sign_in().status_code == 200


def test_whether_an_account_exists_cannot_be_told_from_a_refusal(ada: Person) -> None:
    get_or_create_user(email="invited@example.com")
    bodies = []
    for address in (ada.email, "nobody@example.com", "invited@example.com"):
        person = Person(address, password="wrong horse battery")
        answer = person.sign_in()
        assert (answer.status_code, errors(answer)) == (400, ["email_password_mismatch"])
        assert not is_signed_in(person)
        bodies.append(answer.content)
    assert len(set(bodies)) == 1


def test_somebody_who_was_shut_out(ada: Person) -> None:
    change("UPDATE accounts_user SET is_active = false")
    other = again(ada)
    assert other.sign_in().status_code == 401
    assert not is_signed_in(other)
    assert not is_signed_in(ada)


def test_wrong_passwords_for_one_address_are_counted_wherever_they_come_from(ada: Person) -> None:
    for _ in range(5):
        assert errors(Person(ada.email, password="wrong horse battery").sign_in()) == ["email_password_mismatch"]
    assert errors(again(ada).sign_in()) == ["too_many_login_attempts"]
    let_throttles_pass()
    assert again(ada).sign_in().status_code == 200


def test_wrong_passwords_from_one_place_are_counted_whomever_they_are_for(ada: Person) -> None:
    place = Person("nobody@example.com", password="wrong horse battery")
    for number in range(10):
        place.email = f"nobody-{number}@example.com"
        assert errors(place.sign_in()) == ["email_password_mismatch"]
    place.email, place.password = ada.email, ada.password
    assert errors(place.sign_in()) == ["too_many_login_attempts"]
    assert again(ada).sign_in().status_code == 200


def test_behind_proxies_attempts_are_counted_by_who_is_behind_them(ada: Person, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8")]
    for number in range(10):
        # Through another proxy each time, with a beginning of the list that anybody can make up.
        sent = f"198.51.100.{number}, 203.0.113.7, 10.0.0.{number}"
        guess = Person(f"nobody-{number}@example.com", password="wrong horse battery", forwarded_for=sent)
        assert errors(guess.sign_in()) == ["email_password_mismatch"]
    same = Person(ada.email, password=ada.password, forwarded_for="203.0.113.7")
    assert errors(same.sign_in()) == ["too_many_login_attempts"]
    other = Person(ada.email, password=ada.password, forwarded_for="203.0.113.7, 203.0.113.8")
    assert other.sign_in().status_code == 200
    assert {session["ip"] for session in other.auth("GET", "auth/sessions").json()["data"]} >= {"203.0.113.8"}


def test_a_header_of_nobody_trusted_changes_nothing(ada: Person) -> None:
    guess = Person(ada.email, password=ada.password, forwarded_for="203.0.113.7")
    assert guess.sign_in().status_code == 200
    ips = {session["ip"] for session in guess.auth("GET", "auth/sessions").json()["data"]}
    assert {ip.partition(".")[0] for ip in ips} == {"10"}


def test_who_cannot_be_told_apart_does_not_sign_in(ada: Person, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8")]
    answer = Person(ada.email, password=ada.password, forwarded_for="unknown").sign_in()
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ip_not_allowed")


def test_sign_ups_from_one_place_are_counted(database: None) -> None:
    place = Person("nobody@example.com", password="short")
    assert [
        place.auth("POST", "auth/signup", email=f"{n}@example.com", password="x").status_code for n in range(20)
    ] == [400] * 20
    assert place.sign_up().status_code == 429


def test_attempts_are_counted_while_redis_is_away(ada: Person) -> None:
    running().stop_valkey()
    try:
        for _ in range(5):
            assert errors(Person(ada.email, password="wrong horse battery").sign_in()) == ["email_password_mismatch"]
        assert errors(again(ada).sign_in()) == ["too_many_login_attempts"]
    finally:
        running().restart_valkey()
        cache._quiet.until = 0


def test_a_forwarded_address_is_not_believed_without_a_proxy_of_ours(ada: Person) -> None:
    place = Person(ada.email)
    fields = {"password": "wrong horse battery"}
    for number in range(11):
        answer = place.call(
            "POST", "/_allauth/app/v1/auth/login", {**fields, "email": f"{number}@example.com"},
            headers={"X-Forwarded-For": f"192.0.2.{number}"},
        )  # fmt: skip
    assert errors(answer) == ["too_many_login_attempts"]


def test_a_second_factor_is_asked_for_once_it_is_on(ada: Person) -> None:
    secret = ada.activate_totp()
    (letter,) = letters(ada.email)
    assert letter.subject == "Two-factor sign-in is on"
    other = again(ada)
    answer = other.sign_in()
    assert (answer.status_code, pending(answer)) == (401, ["mfa_authenticate"])
    assert not is_signed_in(other)
    assert errors(other.auth("POST", "auth/2fa/authenticate", code="000000")) == ["incorrect_code"]
    assert not is_signed_in(other)
    code = totp(secret)
    assert other.auth("POST", "auth/2fa/authenticate", code=code).status_code == 200
    assert is_signed_in(other)
    third = again(ada)
    third.sign_in()
    assert errors(third.auth("POST", "auth/2fa/authenticate", code=code)) == ["incorrect_code"]  # each code once
    assert third.auth("POST", "auth/2fa/authenticate", code=totp(secret, later=1)).status_code == 200


def test_the_secret_of_an_authenticator_is_not_readable_in_the_database(ada: Person) -> None:
    secret = ada.activate_totp()
    stored = str(query_owner("SELECT data FROM mfa_authenticator"))
    codes = ada.auth("GET", "account/authenticators/recovery-codes").json()["data"]["unused_codes"]
    assert [word for word in [secret, *codes] if word in stored] == []
    assert count("mfa_authenticator") == 2


def test_a_recovery_code_stands_in_for_the_second_factor_once(ada: Person) -> None:
    ada.activate_totp()
    codes = ada.auth("GET", "account/authenticators/recovery-codes").json()["data"]["unused_codes"]
    assert len(codes) == 10
    others = [again(ada) for _ in range(3)]
    for other in others:
        assert pending(other.sign_in()) == ["mfa_authenticate"]
    tries = [lambda other=other: other.auth("POST", "auth/2fa/authenticate", code=codes[0]) for other in others]
    answers = at_once(*tries)
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400]
    assert len(ada.auth("GET", "account/authenticators/recovery-codes").json()["data"]["unused_codes"]) == 9


def test_new_recovery_codes_void_the_old_ones(ada: Person) -> None:
    ada.activate_totp()
    route = "account/authenticators/recovery-codes"
    old = ada.auth("GET", route).json()["data"]["unused_codes"]
    new = ada.auth("POST", route).json()["data"]["unused_codes"]
    assert set(old) & set(new) == set()
    other = again(ada)
    other.sign_in()
    assert errors(other.auth("POST", "auth/2fa/authenticate", code=old[0])) == ["incorrect_code"]
    assert other.auth("POST", "auth/2fa/authenticate", code=new[0]).status_code == 200


def test_guesses_at_a_second_factor_are_counted(ada: Person) -> None:
    secret = ada.activate_totp()
    other = again(ada)
    other.sign_in()
    for _ in range(5):
        assert errors(other.auth("POST", "auth/2fa/authenticate", code="000000")) == ["incorrect_code"]
    assert errors(other.auth("POST", "auth/2fa/authenticate", code=totp(secret))) == ["too_many_login_attempts"]
    assert not is_signed_in(other)


def test_a_second_factor_can_be_taken_off(ada: Person) -> None:
    ada.activate_totp()
    assert ada.auth("DELETE", "account/authenticators/totp").status_code == 200
    assert again(ada).sign_in().status_code == 200
    assert count("mfa_authenticator") == 0


def test_what_guards_the_account_wants_a_fresh_password(ada: Person) -> None:
    ada.activate_totp()
    key = str(ada.token).split("_")[2]
    store = Session.objects.get(session_key=key)
    data = store.get_decoded()
    for record in data["account_authentication_methods"]:
        record["at"] -= 3_600
    change("UPDATE django_session SET session_data = %s", Session.objects.encode(data))
    answer = ada.auth("DELETE", "account/authenticators/totp")
    assert answer.status_code == 401
    assert count("mfa_authenticator") == 2
    assert ada.auth("POST", "auth/reauthenticate", password="wrong horse battery").status_code == 400
    assert ada.auth("DELETE", "account/authenticators/totp").status_code == 401
    assert ada.auth("POST", "auth/reauthenticate", password=ada.password).status_code == 200
    assert ada.auth("DELETE", "account/authenticators/totp").status_code == 200


def test_sessions_are_listed_and_one_is_ended(ada: Person) -> None:
    other, stranger = again(ada), make_person("Charlie")
    other.sign_in()
    sessions = ada.auth("GET", "auth/sessions").json()["data"]
    assert [session["is_current"] for session in sessions] == [True, False]
    assert sessions[0].keys() == {"user_agent", "ip", "created_at", "is_current", "id"}
    refused = stranger.auth("DELETE", "auth/sessions", sessions=[sessions[1]["id"]])
    assert refused.status_code == 400
    assert is_signed_in(other)
    left = ada.auth("DELETE", "auth/sessions", sessions=[sessions[1]["id"]]).json()["data"]
    assert left == sessions[:1]
    assert not is_signed_in(other)
    assert other.auth("GET", "auth/session").status_code == 410
    assert is_signed_in(ada)
    assert is_signed_in(stranger)


def test_signing_out_ends_the_session(ada: Person) -> None:
    other = again(ada)
    other.sign_in()
    token = other.token
    assert other.auth("DELETE", "auth/session").status_code == 401
    assert find_person(token=str(token)) is None
    assert is_signed_in(ada)


def test_a_changed_password_ends_every_other_session(ada: Person) -> None:
    other = again(ada)
    other.sign_in()
    fields = {"current_password": ada.password, "new_password": NEW}
    refused = ada.auth("POST", "account/password/change", **{**fields, "current_password": "wrong horse battery"})
    assert errors(refused) == ["enter_current_password"]
    assert is_signed_in(other)
    before = ada.token
    assert ada.auth("POST", "account/password/change", **fields).status_code == 200
    assert ada.token != before
    assert (is_signed_in(ada), is_signed_in(other), find_person(token=str(before))) == (True, False, None)
    assert errors(again(ada).sign_in()) == ["email_password_mismatch"]
    ada.password = NEW
    assert again(ada).sign_in().status_code == 200
    assert [letter.subject for letter in letters(ada.email)] == ["Your password was changed"]


def test_a_lost_password_is_reset_by_a_code(ada: Person) -> None:
    other = again(ada)
    assert other.auth("POST", "auth/password/request", email=ada.email).status_code == 401
    code = code_for(ada.email)
    assert errors(other.auth("POST", "auth/password/reset", key="AAAA-AAAA", password=NEW)) == ["incorrect_code"]
    assert errors(other.auth("POST", "auth/password/reset", key=code, password="short")) == ["password_too_short"]
    assert is_signed_in(ada)
    answer = other.auth("POST", "auth/password/reset", key=code, password=NEW)
    assert (answer.status_code, is_signed_in(other), is_signed_in(ada)) == (401, False, False)
    assert other.auth("POST", "auth/password/reset", key=code, password=ada.password).status_code == 409
    other.password = NEW
    assert other.sign_in().status_code == 200


def test_a_reset_code_is_wrong_three_times_at_most(ada: Person) -> None:
    other = again(ada)
    other.auth("POST", "auth/password/request", email=ada.email)
    for _ in range(3):
        assert errors(other.auth("POST", "auth/password/reset", key="AAAA-AAAA", password=NEW)) == ["incorrect_code"]
    answer = other.auth("POST", "auth/password/reset", key=code_for(ada.email), password=NEW)
    assert answer.status_code == 409
    assert is_signed_in(ada)


def test_a_reset_tells_nobody_who_has_an_account(ada: Person) -> None:
    answers = [Person("x@example.com").auth("POST", "auth/password/request", email=address)
               for address in (ada.email, "nobody@example.com")]  # fmt: skip
    shapes = [(answer.status_code, answer.json()["data"], answer.json()["meta"].keys()) for answer in answers]
    assert shapes[0] == shapes[1]
    assert (len(letters(ada.email)), letters("nobody@example.com")) == (1, [])


def test_whom_an_organisation_was_made_for_claims_the_account_by_a_reset(database: None) -> None:
    invited = get_or_create_user(email="invited@example.com")
    person = Person("invited@example.com", password=NEW)
    person.auth("POST", "auth/password/request", email=person.email)
    person.auth("POST", "auth/password/reset", key=code_for(person.email), password=NEW)
    assert pending(person.sign_in()) == ["verify_email"]
    answer = person.verify()
    assert answer.json()["data"]["user"]["id"] == invited.wire_id


def test_an_operator_made_by_hand_signs_in(database: None) -> None:
    create_operator(email="olga@example.com", password=NEW)
    olga = Person("olga@example.com", password=NEW)
    assert pending(olga.sign_in()) == ["verify_email"]
    assert olga.verify().status_code == 200
    assert find_person(token=str(olga.token)) == User.objects.get()


@pytest.mark.parametrize(
    "change_token",
    [
        str.upper, lambda token: token[:-1], lambda token: token + "0", lambda token: token.replace("_st_", "_sk_"),
        lambda token: token[:-1] + format(15 - int(token[-1], 16), "x"), lambda token: token.split("_")[2],
        lambda token: token.replace("_", "\0"), lambda _: "x" * 10_000,
    ],
)  # fmt: skip
def test_a_token_that_was_not_copied_whole(ada: Person, change_token: Any) -> None:
    ada.token = change_token(str(ada.token))
    assert not is_signed_in(ada)
    assert ada.auth("GET", "auth/session").status_code == 410


def test_a_row_of_the_database_makes_no_token(ada: Person) -> None:
    (key,) = query("SELECT session_key FROM django_session", using="owner")[0]
    assert str(key) in str(ada.token)
    assert find_person(token=key) is None
    assert str(ada.token) not in str(query("SELECT * FROM django_session", using="owner"))


def test_a_cookie_means_nothing(ada: Person) -> None:
    key = str(ada.token).split("_")[2]
    answer = Person("x@example.com").call(
        "GET", "/_allauth/app/v1/auth/session", headers={"Cookie": f"sessionid={key}"}
    )
    assert answer.status_code == 401
    assert answer.cookies.keys() == set()


def test_a_session_runs_out(ada: Person) -> None:
    change("UPDATE django_session SET expire_date = now()")
    assert not is_signed_in(ada)
