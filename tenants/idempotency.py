"""Creates that may arrive several times make one object; a deliberate second create makes a second one.

Two ways of knowing a request again. The header ``Idempotency-Key`` says it outright. The SDK never sends that header
and yet repeats POSTs, so one that calls itself a retry (``x-stainless-retry-count``) is compared with what its key has
created in the last minutes, by parsed fields and file digest: multipart boundaries change with every try.

A service that creates asks :func:`earlier` first in the transaction of the create and ends with :func:`remember`; the
record is committed with its object or not at all, so that a try which failed leaves nothing and the next one runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar

import orjson
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from accounts.models import User
from common.database import SYSTEM
from common.errors import HoneError, not_found
from common.ids import from_wire
from tenants.models import ApiKey, IdempotencyRecord, Organization, WireModel

MAX_KEY_CHARACTERS = 255
RETRY_WINDOW = timedelta(minutes=10)
"""How long after a create a retry without a key is still taken for its repetition."""
KEPT_FOR = timedelta(hours=24)
"""How long a key is remembered at least; the hourly pruning forgets it some time in the hour after."""

W = TypeVar("W", bound=WireModel)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A create as it is known again. Digests throughout: a customer may put anything into a header."""

    key_digest: bytes | None
    """Of path and ``Idempotency-Key``; None without that header."""
    fingerprint: bytes
    """Of path, parsed fields and file digest."""
    is_retry: bool
    received_at: datetime
    """PostgreSQL's time at which the whole request was there."""


@dataclass(frozen=True, kw_only=True)
class CreateRequest(Attempt):
    """An attempt of the holder of a key."""

    api_key: ApiKey


def read_create_request(
    *, api_key: ApiKey, path: str, headers: Mapping[str, str], fields: object, digest: str = ""
) -> CreateRequest:
    """What identifies a request that has been parsed; ``fields`` is JSON, ``digest`` its file's, in hexadecimal.

    Raises ``invalid_value`` for a malformed ``Idempotency-Key``.
    """
    return made_by(api_key, read_attempt(path=path, headers=headers, fields=fields, digest=digest))


def made_by(api_key: ApiKey, attempt: Attempt) -> CreateRequest:
    """The attempt, by the holder of this key."""
    return CreateRequest(api_key=api_key, **vars(attempt))


def read_attempt(*, path: str, headers: Mapping[str, str], fields: object, digest: str = "") -> Attempt:
    """As :func:`read_create_request`, whoever has sent it."""
    key = headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise HoneError(
            "invalid_value",
            f"Idempotency-Key takes 1 to {MAX_KEY_CHARACTERS} printable ASCII characters",
            param="Idempotency-Key",
        )
    retries = headers.get("x-stainless-retry-count", "")
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        (now,) = cursor.fetchone()
    return Attempt(
        key_digest=None if key is None else _digest(path, key),
        fingerprint=_digest(path, fields, digest),
        is_retry=re.fullmatch(r"\d{1,9}", retries, re.ASCII) is not None and int(retries) > 0,
        received_at=now,
    )


def earlier(request: CreateRequest, model: type[W]) -> W | None:
    """The object that another try of this request has made; None when this one is to make it.

    Call inside the scope, before anything else. Tries of one request wait here for each other, until the transaction
    ends. An object that has been deleted since comes back as its row still is, and is ``not_found`` when that is gone:
    a repetition never brings back what somebody has deleted. ``idempotency_key_reused`` when the key stands for
    another request, ``organization_inactive`` when the organisation has been suspended since the key was checked:
    whoever does that waits for the creates that hold its row here, and stops all later ones.
    """
    identity = request.key_digest or request.fingerprint
    lock = int.from_bytes(sha256(request.api_key.id.bytes + identity).digest()[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lock])
        cursor.execute(
            "SELECT status FROM tenants_organization WHERE id = %s FOR SHARE", [request.api_key.organization_id]
        )
        (status,) = cursor.fetchone()
    if status != Organization.Status.ACTIVE:
        raise HoneError("organization_inactive", "The organisation is suspended; contact the operator")
    record = _find(request, IdempotencyRecord.objects.filter(api_key_id=request.api_key.id))
    if record is None:
        return None
    object_id = from_wire(model.ID_PREFIX, record.object_id)
    made = model._default_manager.filter(pk=object_id).first()
    if made is None:
        raise not_found("object any more", record.object_id, param="Idempotency-Key")
    return made


def earlier_organization(attempt: Attempt, *, founder: User) -> Organization | None:
    """As :func:`earlier`, for the organisations that a person makes: they are remembered as the founder's session key.

    Call under the lock of the founder, outside of any scope.
    """
    # Of all organisations that the person has ever made, which no single tenant knows.
    records = IdempotencyRecord.all_tenants.filter(
        api_key__kind=ApiKey.Kind.SESSION,
        api_key__created_by_id=founder.id,
        object_id__startswith=Organization.ID_PREFIX,
    )
    record = _find(attempt, records)
    if record is None:
        return None
    organization = Organization.all_tenants.get(id=record.organization_id)
    if organization.status == Organization.Status.DELETED:
        raise not_found("object any more", record.object_id, param="Idempotency-Key")
    return organization


def remember(request: CreateRequest, made: WireModel) -> None:
    """Later tries of this request get ``made``. Call in the transaction that creates it."""
    IdempotencyRecord.objects.create(
        organization_id=request.api_key.organization_id,
        api_key_id=request.api_key.id,
        key_digest=request.key_digest,
        fingerprint=request.fingerprint,
        is_retry=request.is_retry,
        object_id=made.wire_id,
    )


def forget_old_requests(*, limit: int = 5_000) -> int:
    """Delete the records that nobody may count on any more, ``limit`` at a time; how many."""
    # Old is old whoever it belongs to.
    old = IdempotencyRecord.all_tenants.filter(created_at__lt=Now() - KEPT_FOR)
    forgotten = 0
    while True:
        with transaction.atomic(using=SYSTEM):
            count, _ = IdempotencyRecord.all_tenants.filter(
                pk__in=list(old.values_list("pk", flat=True)[:limit])
            ).delete()
        forgotten += count
        if count < limit:
            return forgotten


def _find(attempt: Attempt, records: QuerySet[IdempotencyRecord]) -> IdempotencyRecord | None:
    """The record of an earlier try among those of one caller."""
    if attempt.key_digest is not None:
        record = records.filter(key_digest=attempt.key_digest).first()
        if record is not None and bytes(record.fingerprint) != attempt.fingerprint:
            raise HoneError(
                "idempotency_key_reused",
                "This Idempotency-Key was sent with other parameters before; use a new key for a new request",
                param="Idempotency-Key",
            )
        return record
    same = records.filter(key_digest=None, fingerprint=attempt.fingerprint)
    if attempt.is_retry:
        same = same.filter(created_at__gt=Now() - RETRY_WINDOW)
    else:
        # A first try may get here after the retry that has replaced it: its client has given up on it since.
        same = same.filter(is_retry=True, created_at__gt=attempt.received_at)
    return same.order_by("-created_at").first()


def _digest(*parts: object) -> bytes:
    try:
        return sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()
    except orjson.JSONEncodeError as error:
        raise HoneError("invalid_json", "The body nests too deeply") from error
