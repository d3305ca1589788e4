"""Writes about people."""

from datetime import timedelta
from smtplib import SMTPRecipientsRefused, SMTPResponseException

import structlog
from allauth.usersessions.models import UserSession
from django.contrib.auth.hashers import make_password
from django.contrib.auth.password_validation import validate_password
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.core.mail import send_mail
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef
from django.db.models.functions import Now

from accounts.emails import Letter, write_about
from accounts.models import Email, User
from common.database import SYSTEM
from common.errors import HoneError
from common.ids import uuid7

logger = structlog.get_logger(__name__)

EMAIL_LIFETIME = timedelta(minutes=15)
"""For how long sending a message is tried whose text is queued: the codes in it are valid no longer."""


def get_or_create_user(*, email: str) -> User:
    """The user of an e-mail address; a new one has no usable password until it is set by the person."""
    address = email.strip().lower()
    try:
        User._meta.get_field("email").clean(address, None)
    except ValidationError as error:
        raise HoneError("invalid_value", f"Not an e-mail address: {email!r}", param="email") from error
    unusable = make_password(None)
    user, _ = User.objects.using(SYSTEM).get_or_create(email=address, defaults={"password": unusable})
    return user


def create_operator(*, email: str, password: str) -> User:
    """Make the person of this address an operator who signs in with ``password``."""
    with transaction.atomic(using=SYSTEM):  # a password that is refused leaves nobody behind
        user = get_or_create_user(email=email)
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise HoneError("invalid_value", " ".join(error.messages), param="password") from error
        user.set_password(password)
        user.is_operator = True
        user.save(update_fields=["password", "is_operator"])
    return user


def delete_user(*, user: User) -> None:
    """Remove a person and all that was kept for signing in. Call in a transaction of the system role."""
    sessions = list(UserSession.objects.filter(user_id=user.id).values_list("session_key", flat=True))
    Session.objects.filter(session_key__in=sessions).delete()  # they hold the address, too
    user.delete()


def queue_email(*, to: str, subject: str, body: str) -> None:
    """Put a message into the outbox, in the caller's transaction of the system role; beat sends within seconds."""
    Email.objects.create(to=to, subject=subject, body=body)


def queue_email_about(*, to: str, about: str) -> None:
    """The same for a tenant's thing, by its wire id, in the transaction of the caller's scope.

    The text is made when it is sent (:func:`accounts.emails.register_writer`); that is tried as long as there is one.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT hone_queue_email(%s, %s, %s)", [uuid7(), to, about])


def send_due_emails(*, limit: int = 100) -> int:
    """Send what is due, at most ``limit`` messages; how many were. One sender at a time (the task sees to that).

    A process that is killed after the relay took a message and before the row went sends it again. What fails is tried
    again after 2, 4, 8... seconds and given up with :data:`EMAIL_LIFETIME`.
    """
    given_up, _ = Email.objects.filter(about="", created_at__lt=Now() - EMAIL_LIFETIME).delete()
    if given_up:
        logger.error("e-mails were given up", count=given_up)
    sent = 0
    for email in list(Email.objects.filter(next_attempt_at__lte=Now()).order_by("next_attempt_at")[:limit]):
        letter = write_about(email.about) if email.about else Letter(email.subject, email.body)
        if letter is None:
            email.delete()
            continue
        try:
            send_mail(letter.subject, letter.body, None, [email.to])
        except (SMTPRecipientsRefused, SMTPResponseException) as error:
            _postpone(email, error)
        except OSError as error:  # the relay is away, for the others too
            _postpone(email, error)
            break
        else:
            email.delete()
            sent += 1
    return sent


def forget_ended_sessions() -> int:
    """Delete the sessions that have run out, and what is known of those that are gone; how many."""
    Session.objects.filter(expire_date__lt=Now()).delete()
    stored = Session.objects.filter(session_key=OuterRef("session_key"))
    forgotten: int = UserSession.objects.filter(~Exists(stored)).delete()[0]
    return forgotten


def _postpone(email: Email, error: OSError) -> None:
    # Neither the address nor the text: the log tells that mail fails, not whose.
    logger.warning("an e-mail was not sent", attempts=email.attempts + 1, error=type(error).__name__)
    pause = timedelta(seconds=2 ** min(email.attempts + 1, 8))
    Email.objects.filter(id=email.id).update(attempts=F("attempts") + 1, next_attempt_at=Now() + pause)
