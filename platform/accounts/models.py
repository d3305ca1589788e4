"""A user is a person; what the person may do in an organisation stands in ``tenants.Membership``."""

from typing import ClassVar, Self

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Now

from common.ids import to_wire, uuid7


class User(AbstractBaseUser):
    """Somebody who can sign in. The e-mail address is stored in lower case and is the user name."""

    ID_PREFIX = "user-"
    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=200, blank=True)
    is_active = models.BooleanField(default=True)
    is_operator = models.BooleanField(default=False)
    """May use the operations console: the people who run this installation."""
    created_at = models.DateTimeField(auto_now_add=True)
    signup_credit_at = models.DateTimeField(null=True, editable=False)
    """When the person's first organisation was given its opening credit; there is one for each person."""

    objects: ClassVar[BaseUserManager[Self]] = BaseUserManager()

    def __str__(self) -> str:
        return self.email

    @property
    def wire_id(self) -> str:
        """The id as customers see it."""
        return to_wire(self.ID_PREFIX, self.id)


class Email(models.Model):
    """A message to a person that waits to be sent: queued with what it is about, deleted once the relay has it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    to = models.EmailField()
    subject = models.CharField(max_length=200, blank=True)
    body = models.TextField(blank=True)
    about = models.CharField(max_length=80, blank=True)
    """Wire id of a thing that is written about when the letter is sent (:func:`accounts.emails.write_about`)."""
    attempts = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    next_attempt_at = models.DateTimeField(db_default=Now(), db_index=True)
