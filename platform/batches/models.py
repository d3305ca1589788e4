"""A batch, its rows, the shards they are worked on in, and the segments in which results arrive.

Invariant, held by a constraint: ``total = pending + completed + failed + expired + cancelled``, and nothing is
pending in a terminal state.
"""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from catalog.models import FineTunedModel, Price
from common.ids import uuid7
from files.models import StoredFile
from fleet.models import Lease
from tenants.models import ApiKey, Organization, Project, TenantModel, WireModel, tenant_key

TERMINAL = ("failed", "completed", "expired", "cancelled")


class Batch(WireModel, TenantModel):
    """A customer's job: one input file, one endpoint, one result per line."""

    ID_PREFIX = "batch_"

    class Status(models.TextChoices):
        """OpenAI's states."""

        VALIDATING = "validating"
        FAILED = "failed"
        IN_PROGRESS = "in_progress"
        FINALIZING = "finalizing"
        COMPLETED = "completed"
        EXPIRED = "expired"
        CANCELLING = "cancelling"
        CANCELLED = "cancelled"

    class OnInvalid(models.TextChoices):
        """What a malformed line does: fail the whole batch, or only itself."""

        FAIL = "fail"
        SKIP = "skip"

    class PauseReason(models.TextChoices):
        """Why a batch that could run does not: its owner's wish, its own cap, or the organisation's balance."""

        REQUESTED = "requested"
        MAX_COST = "max_cost"
        INSUFFICIENT_QUOTA = "insufficient_quota"

    project = tenant_key(Project)
    api_key = tenant_key(ApiKey)
    endpoint = models.CharField(max_length=64)
    completion_window = models.CharField(max_length=8)
    on_invalid = models.CharField(max_length=8, choices=OnInvalid, default=OnInvalid.FAIL)
    metadata = models.JSONField(default=dict)
    output_lifetime_seconds = models.PositiveIntegerField(null=True)
    input_file = tenant_key(StoredFile)
    retry_of = tenant_key("self", null=True)
    """The batch whose rows without a success this one runs again."""
    output_file = tenant_key(StoredFile, null=True)
    error_file = tenant_key(StoredFile, null=True)
    control_lease = tenant_key(Lease, null=True)
    """The validation or assembly that the control plane does or has done."""
    status = models.CharField(max_length=16, choices=Status, default=Status.VALIDATING)
    closing_as = models.CharField(max_length=16, choices=Status, blank=True)
    """Cancelled or expired, once the batch is on its way there."""
    pause_reason = models.CharField(max_length=32, choices=PauseReason, blank=True)
    held_reason = models.TextField(blank=True)
    """Why an operator must look: the batch stays *finalizing* until its accounts agree."""
    model = models.CharField(max_length=200, blank=True)
    """The model, when all lines name the same."""
    aliases = models.JSONField(default=dict)
    """What the project's aliases stood for when the batch was created: for the batch they stand for it to its end."""
    errors = models.JSONField(default=list)
    """File-level errors and the first bad lines; the error file has every line."""

    total = models.PositiveIntegerField(default=0)
    pending = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    expired = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cost_nanos = models.BigIntegerField(default=0)
    bound_nanos = models.BigIntegerField(default=0)
    """What all rows together can cost at most."""
    max_cost_nanos = models.BigIntegerField(null=True)
    """The owner's cap: shards are funded one after the other below it, and the batch pauses when it is reached."""
    holds = models.PositiveIntegerField(default=0)
    """How often money has been held: numbers the holds' keys."""

    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    expired_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(
                    total=models.F("pending")
                    + models.F("completed")
                    + models.F("failed")
                    + models.F("expired")
                    + models.F("cancelled")
                ),
                name="batch_rows_add_up",
            ),
            models.CheckConstraint(
                condition=models.Q(pending=0) | ~models.Q(status__in=TERMINAL), name="batch_terminal_has_no_pending"
            ),
            models.UniqueConstraint(
                fields=["retry_of"], condition=~models.Q(status="failed"), name="batch_retried_once"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["project", "id"], name="batch_by_project"),
            models.Index(fields=["expires_at"], condition=~models.Q(status__in=TERMINAL), name="batch_open_by_expiry"),
        ]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL

    @property
    def has_files(self) -> bool:
        """Whether its results stand in the output and error files."""
        return self.is_terminal and self.status != self.Status.FAILED


class Shard(TenantModel):
    """Rows of one model that are leased together, about ten seconds of work; its money is held before they run."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    batch = tenant_key(Batch)
    lease = models.OneToOneField(Lease, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    """Its model is the base model, whatever adapter is on it: nodes serve both with one engine."""
    model = models.CharField(max_length=200)
    """The model that rows ask for, by its own name."""
    adapter = tenant_key(FineTunedModel, null=True, db_index=False)
    """The same, where it is a fine-tuned one."""
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="+")
    rows = models.PositiveIntegerField()
    pending = models.PositiveIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    """Estimate for all its rows: what it takes of the project's limit while any of them is pending."""
    next_segment = models.PositiveIntegerField(default=0)
    bound_nanos = models.BigIntegerField(default=0)
    """What its rows can cost at most: the money held for it once it is funded."""
    cost_nanos = models.BigIntegerField(default=0)
    is_funded = models.BooleanField(default=False)
    """Only a funded shard is handed out."""

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["batch"], name="shard_by_batch"),
            models.Index(
                fields=["batch", "id"], condition=models.Q(is_funded=False, pending__gt=0), name="shard_unfunded"
            ),
            models.Index(
                fields=["adapter"], condition=models.Q(adapter__isnull=False, pending__gt=0), name="shard_needs_adapter"
            ),
        ]


class Segment(TenantModel):
    """A handful of finished rows, stored once: the unit in which results, counters and usage move together."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    batch = tenant_key(Batch)
    shard = tenant_key(Shard)
    number = models.PositiveIntegerField()
    epoch = models.PositiveIntegerField(default=0)
    """The claim that brought it: how often its rows had been handed out until they were answered."""
    digest = models.CharField(max_length=64)
    """SHA-256 of the bytes that the worker sent: a repeat is recognised by it."""
    storage_key = models.CharField(max_length=255)
    """Blob with the finished lines as they will stand in the output or error file."""
    rows = models.PositiveIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["shard", "number"], name="segment_once")]
        indexes: ClassVar = [
            models.Index(fields=["batch"], name="segment_by_batch"),
            models.Index(fields=["storage_key"], condition=~models.Q(storage_key=""), name="segment_by_storage_key"),
        ]


class Row(TenantModel):
    """One line of the input; ``line`` is its 1-based number and its identity."""

    class State(models.TextChoices):
        """Every row leaves *pending* exactly once."""

        PENDING = "pending"
        COMPLETED = "completed"
        FAILED = "failed"
        EXPIRED = "expired"
        CANCELLED = "cancelled"

    pk = models.CompositePrimaryKey("batch_id", "line")
    # Tens of thousands of rows at once: the key to the batch checks the organisation already.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    batch = tenant_key(Batch, db_index=False)
    line = models.PositiveIntegerField()
    shard = tenant_key(Shard, null=True, db_index=False)
    position = models.PositiveIntegerField(db_default=0)
    """Place in the order of execution within the batch: rows that share a prefix follow one another."""
    custom_id = models.TextField(null=True)  # noqa: DJ001  # a malformed line has none, which is not an empty one
    offset = models.BigIntegerField()
    """Where the line begins in the input file, in bytes."""
    length = models.PositiveIntegerField()
    bound_nanos = models.BigIntegerField(db_default=0)
    """What the row can cost at most."""
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    error = models.JSONField(null=True)
    """``{"code", "message", "param"}`` of a line that never ran."""
    segment = tenant_key(Segment, null=True, db_index=False)
    # Database defaults: rows are inserted by SQL of our own (batches.rows).
    result_offset = models.BigIntegerField(db_default=0)
    """Where its result begins: in its segment, and in the output or error file once the batch has ended."""
    result_length = models.PositiveIntegerField(db_default=0)
    input_tokens = models.PositiveIntegerField(db_default=0)
    cached_tokens = models.PositiveIntegerField(db_default=0)
    output_tokens = models.PositiveIntegerField(db_default=0)
    reasoning_tokens = models.PositiveIntegerField(db_default=0)
    cost_nanos = models.BigIntegerField(db_default=0)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["shard", "position"], condition=models.Q(state="pending"), name="row_pending"),
        ]
