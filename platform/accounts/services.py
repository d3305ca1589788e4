"""Writes about people."""

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts.models import User
from common.database import SYSTEM
from common.errors import HoneError


def get_or_create_user(*, email: str) -> User:
    """The user of an e-mail address; a new one has no usable password until it is set by the person."""
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError as error:
        raise HoneError("invalid_value", f"Not an e-mail address: {email!r}", param="email") from error
    user, created = User.objects.using(SYSTEM).get_or_create(email=address)
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user


def create_operator(*, email: str, password: str) -> User:
    """Make the person of this address an operator who signs in with ``password``."""
    user = get_or_create_user(email=email)
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise HoneError("invalid_value", " ".join(error.messages), param="password") from error
    user.set_password(password)
    user.is_operator = True
    user.save(update_fields=["password", "is_operator"])
    return user
