"""Nodes, their tokens, and leases: the rows of work."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from common.ids import uuid7
from tenants.models import TenantModel, WireModel


class WorkerToken(models.Model):
    """What a node proves itself with (``hone_wk_...``); belongs to the installation."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200)
    public_id = models.CharField(max_length=32, unique=True)
    digest = models.BinaryField(max_length=32)
    created_at = models.DateTimeField(default=timezone.now)
    revoked_at = models.DateTimeField(null=True)


class Node(models.Model):
    """A machine that runs a node agent, as it last reported itself."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200, unique=True)
    token = models.ForeignKey(WorkerToken, on_delete=models.PROTECT, related_name="+")
    incarnation = models.CharField(max_length=64)
    """Random per agent process; a call with another one comes from a process that has been replaced."""
    protocol = models.PositiveIntegerField()
    software = models.JSONField(default=dict)
    hardware = models.JSONField(default=dict)
    model_reports = models.JSONField(default=list)
    """The :class:`inference_workers.protocol.ModelReport` objects of the last report."""
    is_draining = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.name


class Lease(WireModel, TenantModel):
    """One piece of work: who may do it next, who does it now, until when.

    ``epoch`` counts claims; whoever calls with an older one has lost the lease and changes nothing.
    """

    ID_PREFIX = "lease_"

    class State(models.TextChoices):
        """``waiting -> leased -> done | failed | cancelled``, back to waiting when a holder is lost.

        A paused lease is not handed out until it is resumed.
        """

        WAITING = "waiting"
        PAUSED = "paused"
        LEASED = "leased"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    kind = models.CharField(max_length=32)
    model = models.CharField(max_length=200, blank=True)
    """Model that the holder must serve; empty for work of the control plane itself."""
    estimated_tokens = models.BigIntegerField(default=0)
    deadline_at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    epoch = models.PositiveIntegerField(default=0)
    node = models.ForeignKey(Node, null=True, on_delete=models.PROTECT, related_name="+")
    leased_until = models.DateTimeField(null=True)
    not_before = models.DateTimeField(db_default=Now())
    """Back-off after a failure; by the database's clock from the start, because claims compare it with that."""
    has_progressed = models.BooleanField(default=False)
    """Whether this claim has brought anything that lasts; if not, its end counts as an attempt."""
    attempts = models.PositiveIntegerField(default=0)
    cancel_requested_at = models.DateTimeField(null=True)
    pause_requested_at = models.DateTimeField(null=True)
    """Since when the holder is asked to let go, so that the lease can pause."""
    failure = models.JSONField(null=True)
    """``{"code", "message"}`` of the last failure."""
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(state="leased", leased_until__isnull=False)
                | (~models.Q(state="leased") & models.Q(leased_until=None)),
                name="lease_leased_until",
            ),
        ]
        indexes: ClassVar = [
            # The claim walks this one: organisations with work of a kind that waits for a model, then their earliest
            # deadline.
            models.Index(
                fields=["model", "kind", "organization", "deadline_at", "id"],
                condition=models.Q(state="waiting"),
                name="lease_waiting_by_kind",
            ),
            models.Index(fields=["leased_until"], condition=models.Q(state="leased"), name="lease_leased"),
        ]


OPEN_STATES = (Lease.State.WAITING, Lease.State.PAUSED, Lease.State.LEASED)
"""Of a lease that has not ended."""
