"""Where a project wants to be told of what, what has happened, and how the telling went.

Invariant: a pending delivery's endpoint is enabled and not deleted. Whoever disables or deletes an endpoint locks it
first and then ends its pending deliveries; whoever adds or revives a delivery shares or takes that lock.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from common.ids import uuid7
from tenants.models import Project, TenantModel, WireModel, tenant_key


class EventType(models.TextChoices):
    """What can be subscribed to, by OpenAI's names. ``data.id`` of an event is the id of the batch or job."""

    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"
    FINE_TUNING_JOB_SUCCEEDED = "fine_tuning.job.succeeded"
    FINE_TUNING_JOB_FAILED = "fine_tuning.job.failed"
    FINE_TUNING_JOB_CANCELLED = "fine_tuning.job.cancelled"


class Failure(models.TextChoices):
    """Why an attempt was none, or a delivery has ended without one that succeeded."""

    NAME_NOT_RESOLVED = "name_not_resolved"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    CONNECTION_FAILED = "connection_failed"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    INVALID_RESPONSE = "invalid_response"
    STATUS = "status"
    """An answer other than 2xx; a redirect is one."""
    INTERNAL_ERROR = "internal_error"
    ENDPOINT_DISABLED = "endpoint_disabled"
    ENDPOINT_DELETED = "endpoint_deleted"


class WebhookEndpoint(WireModel, TenantModel):
    """A customer's URL. Its signing secret is nowhere: :mod:`notifications.signing` derives it from id and version."""

    ID_PREFIX = "we_"

    project = tenant_key(Project, db_index=False)
    name = models.CharField(max_length=200)
    url = models.CharField(max_length=2048)
    event_types = ArrayField(models.CharField(max_length=64))
    enabled = models.BooleanField(default=True)
    secret_version = models.PositiveIntegerField(default=1)
    previous_secret_until = models.DateTimeField(null=True)
    """Until when the version before signs, too."""
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["project", "id"], condition=models.Q(deleted_at=None), name="webhook_endpoint_by_project"
            ),
        ]


class Event(WireModel, TenantModel):
    """Something that has happened, once per type and object; written only when somebody wants to know."""

    ID_PREFIX = "evt_"

    project = tenant_key(Project, db_index=False)
    type = models.CharField(max_length=64, choices=EventType)
    object_id = models.CharField(max_length=80)
    """Wire id of what it has happened to."""
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "type", "object_id"], name="event_once"),
        ]
        indexes: ClassVar = [models.Index(fields=["created_at"], name="event_by_age")]


class Delivery(WireModel, TenantModel):
    """An event on its way to one endpoint."""

    ID_PREFIX = "whd_"

    class State(models.TextChoices):
        """Pending until an answer of 2xx, or until nothing more will be tried."""

        PENDING = "pending"
        DELIVERED = "delivered"
        FAILED = "failed"

    event = tenant_key(Event, db_index=False)
    endpoint = tenant_key(WebhookEndpoint, db_index=False)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    """Attempts begun, ever: also the epoch by which the outcome of an older attempt is told from the current one's."""
    attempts_before_replay = models.PositiveIntegerField(default=0)
    """How many of them do not count for the back-off, because the customer has asked to begin again."""
    next_attempt_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=32, choices=Failure, blank=True)
    """Why the last attempt was not enough, or why the delivery has ended."""
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["event", "endpoint"], name="delivery_once"),
            models.CheckConstraint(
                condition=models.Q(state="pending", next_attempt_at__isnull=False)
                | (~models.Q(state="pending") & models.Q(next_attempt_at=None)),
                name="delivery_is_due_while_pending",
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["endpoint", "next_attempt_at"], condition=models.Q(state="pending"), name="delivery_pending"
            ),
            models.Index(fields=["endpoint", "id"], name="delivery_by_endpoint"),
        ]


class DeliveryAttempt(TenantModel):
    """The log: one request, and what came of it. An attempt whose sender was killed has no row."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    delivery = tenant_key(Delivery, related_name="log", db_index=False)
    number = models.PositiveIntegerField()
    status_code = models.PositiveIntegerField(null=True)
    error = models.CharField(max_length=32, choices=Failure, blank=True)
    milliseconds = models.PositiveIntegerField()
    created_at = models.DateTimeField()
    """When it was begun."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["delivery", "number"], name="delivery_attempt_once"),
        ]
