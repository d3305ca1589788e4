"""Writes about people."""

from django.contrib.auth.hashers import make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts.models import User
from common.database import SYSTEM
from common.errors import HoneError


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
