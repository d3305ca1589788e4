"""The outbox: nothing is lost with the relay, nothing is sent later than it is of use."""

from collections.abc import Iterable
from smtplib import SMTPRecipientsRefused
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import transaction

from accounts.models import Email
from accounts.services import forget_ended_sessions, queue_email, send_due_emails
from accounts.tasks import forget_sessions, send_emails
from common.database import SYSTEM
from tests.support.facts import change, count, query_owner
from tests.support.sign_in import make_person


@pytest.fixture
def waiting(database: None) -> None:
    for name in ("ada", "bob"):
        queue_email(to=f"{name}@example.com", subject="s", body="b")


def sent_to() -> list[list[str]]:
    return [message.to for message in mail.outbox]


def failing(error: OSError, *addresses: str) -> Any:
    """A relay that does not take what is for these addresses."""

    def send(self: EmailBackend, messages: Iterable[mail.EmailMessage]) -> int:
        for message in messages:
            if message.to[0] in addresses:
                raise error
            mail.outbox.append(message)
        return 1

    return send


def test_what_waits_is_sent_once(waiting: None) -> None:
    send_emails()
    send_emails()
    assert (sent_to(), count("accounts_email")) == ([["ada@example.com"], ["bob@example.com"]], 0)
    assert mail.outbox[0].from_email == "Hone <hone@localhost>"


def test_a_message_that_was_queued_goes_with_its_transaction(database: None) -> None:
    with transaction.atomic(using=SYSTEM):
        queue_email(to="ada@example.com", subject="s", body="b")
        assert Email.objects.count() == 1
        transaction.set_rollback(True, using=SYSTEM)
    assert count("accounts_email") == 0


def test_a_message_that_is_refused_does_not_hold_up_the_others(waiting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmailBackend, "send_messages", failing(SMTPRecipientsRefused({}), "ada@example.com"))
    assert send_due_emails() == 1
    assert sent_to() == [["bob@example.com"]]
    assert query_owner(
        "SELECT \"to\", attempts, next_attempt_at > now() + interval '1 second' FROM accounts_email"
    ) == [("ada@example.com", 1, True)]
    assert send_due_emails() == 0
    change("UPDATE accounts_email SET next_attempt_at = now()")
    monkeypatch.undo()
    assert send_due_emails() == 1


def test_a_relay_that_is_away_is_asked_once_a_turn(waiting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    away = failing(ConnectionRefusedError(), "ada@example.com", "bob@example.com")
    monkeypatch.setattr(EmailBackend, "send_messages", away)
    assert send_due_emails() == 0
    assert query_owner("SELECT attempts FROM accounts_email ORDER BY id") == [(1,), (0,)]


def test_a_message_that_is_too_late_is_given_up(waiting: None) -> None:
    change("UPDATE accounts_email SET created_at = now() - interval '15 minutes' WHERE \"to\" = 'ada@example.com'")
    assert send_due_emails() == 1
    assert (sent_to(), count("accounts_email")) == ([["bob@example.com"]], 0)


def test_sessions_that_have_run_out_are_forgotten(database: None) -> None:
    make_person("Ada")
    other = make_person("Bob")
    change("UPDATE django_session SET expire_date = now() WHERE session_key <> %s", str(other.token).split("_")[2])
    forget_sessions()
    assert (count("django_session"), count("usersessions_usersession")) == (1, 1)
    assert forget_ended_sessions() == 0
