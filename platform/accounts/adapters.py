"""What django-allauth asks this installation: how to send, store and show."""

import base64
import hmac
from hashlib import sha256
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.headless.adapter import DefaultHeadlessAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.validators import MaxLengthValidator
from django.http import HttpRequest

from accounts.emails import email_text
from accounts.models import User
from accounts.services import queue_email
from common.addresses import address_of
from common.errors import HoneError


class AccountAdapter(DefaultAccountAdapter):
    """Messages go through the outbox, in our words."""

    def clean_email(self, email: str) -> str:
        """The address; one that does not fit would be cut off, and be somebody else's."""
        MaxLengthValidator(User._meta.get_field("email").max_length)(email)
        return email

    def get_client_ip(self, request: HttpRequest) -> str:
        """By what attempts are counted, and what sessions and messages show: the same that keys are bound to."""
        address = address_of(request)
        if address is None:
            raise HoneError("ip_not_allowed", "The address you call from cannot be known; contact the operator")
        return str(address)

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Queue a message; it is sent when the request's transaction is committed."""
        subject, body = email_text(template_prefix.rpartition("/")[2], context)
        queue_email(to=email, subject=subject, body=body)

    def send_account_already_exists_mail(self, email: str) -> None:
        """Tell the owner of the account, and take as long as making one, so that the caller learns nothing."""
        make_password(email)
        self.send_mail("account/email/account_already_exists", email, {})


class HeadlessAdapter(DefaultHeadlessAdapter):
    """People on the wire."""

    def serialize_user(self, user: User) -> dict[str, Any]:
        """As in every other answer of the API."""
        return {"id": user.wire_id, "email": user.email, "name": user.name}


class MFAAdapter(DefaultMFAAdapter):
    """Secrets of authenticator apps and recovery codes are encrypted: they must be read again, so no digest will do."""

    def encrypt(self, text: str) -> str:
        """For the database."""
        return _cipher().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """From the database."""
        return _cipher().decrypt(encrypted_text.encode()).decode()


def _cipher() -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hmac.digest(settings.KEY_PEPPER, b"second factor", sha256)))
