"""A fine-tuning job, the training it consists of, and what comes out of it while it runs.

One lease at a time carries a job on (:attr:`FineTuningJob.lease`): the preparation of its data, the training, what
follows it. Events and checkpoints are numbered within their job, and their ids are made of job and number.
"""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from catalog.models import BaseModel, FineTunedModel, Price
from common.ids import uuid7
from files.models import StoredFile
from fleet.models import Lease
from tenants.models import ApiKey, Project, TenantModel, WireModel, tenant_key

TERMINAL = ("succeeded", "failed", "cancelled")


class FineTuningJob(WireModel, TenantModel):
    """A customer's job: data and a base model in, a model out."""

    ID_PREFIX = "ftjob-"

    class Status(models.TextChoices):
        """OpenAI's states."""

        VALIDATING_FILES = "validating_files"
        QUEUED = "queued"
        RUNNING = "running"
        """Trained, or what follows the training."""
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Method(models.TextChoices):
        """How a model learns: from examples, or from preferences."""

        SUPERVISED = "supervised"
        DPO = "dpo"

    class PauseReason(models.TextChoices):
        """Why a job that could be trained is not: its owner's wish, or its own cap."""

        REQUESTED = "requested"
        MAX_COST = "max_cost"

    project = tenant_key(Project)
    api_key = tenant_key(ApiKey)
    base = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="+")
    base_revision = models.CharField(max_length=64)
    """Of the base model when the data was prepared; it is trained on no other."""
    model = models.CharField(max_length=300)
    """As the customer named it: the base model, or a tuned one to continue from."""
    continued_from = models.CharField(max_length=300, blank=True)
    """Name of the tuned model whose adapter is trained on."""
    method = models.CharField(max_length=16, choices=Method)
    hyperparameters = models.JSONField(default=dict)
    """As asked for; what is missing is ``auto``."""
    resolved = models.JSONField(null=True)
    """The fields of :class:`finetuning.hyperparameters.Hyperparameters`, once the data is known."""
    suffix = models.CharField(max_length=64, blank=True)
    seed = models.BigIntegerField()
    metadata = models.JSONField(default=dict)
    recipe = models.CharField(max_length=64, blank=True)
    column_mapping = models.JSONField(null=True)
    validation_fraction = models.FloatField(default=0)
    """Part of the training file that is held out when there is no validation file."""
    promote_if = models.JSONField(null=True)
    alias = models.CharField(max_length=64, blank=True)
    """What is to point at the model, if it passes ``promote_if``."""
    training_file = tenant_key(StoredFile)
    validation_file = tenant_key(StoredFile, null=True)
    result_file = tenant_key(StoredFile, null=True)
    lease = tenant_key(Lease, null=True)
    """The work that carries the job on now, or did last. Changed only with the job and the former lease locked."""
    status = models.CharField(max_length=16, choices=Status, default=Status.VALIDATING_FILES)
    pause_reason = models.CharField(max_length=16, choices=PauseReason, blank=True)
    error = models.JSONField(null=True)
    """``{"code", "message", "param"}`` of a failed job."""
    dataset = models.JSONField(null=True)
    """What the data was made into: digests, rows and tokens of each part, rows left out or cut."""
    fine_tuned_model = models.CharField(max_length=300, blank=True)

    price = models.ForeignKey(Price, null=True, on_delete=models.PROTECT, related_name="+")
    total_tokens = models.BigIntegerField(default=0)
    """That the training processes when nothing ends it early."""
    trained_tokens = models.BigIntegerField(default=0)
    """Processed so far, as the trainer has reported; a step that is repeated counts once."""
    settled_tokens = models.BigIntegerField(default=0)
    """Charged so far."""
    cost_nanos = models.BigIntegerField(default=0)
    bound_nanos = models.BigIntegerField(default=0)
    """What it can cost at most."""
    held_nanos = models.BigIntegerField(default=0)
    """Held so far, of which the cost is a part; the bound, or less below a cap."""
    max_cost_nanos = models.BigIntegerField(null=True)
    holds = models.PositiveIntegerField(default=0)
    """How often money has been held: numbers the holds' keys."""
    next_event = models.PositiveIntegerField(default=1)

    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    """When a node first took the training."""
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(
                    settled_tokens__lte=models.F("trained_tokens"), cost_nanos__lte=models.F("held_nanos")
                ),
                name="job_charged_for_what_was_trained",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=TERMINAL, finished_at__isnull=False)
                | (~models.Q(status__in=TERMINAL) & models.Q(finished_at=None)),
                name="job_finished_when_terminal",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["project", "id"], name="job_by_project"),
            models.Index(fields=["lease"], name="job_by_lease"),
        ]

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL


class TrainingRun(TenantModel):
    """The training of a job, from its first claim to its end, however many nodes have a part in it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    job = models.OneToOneField(FineTuningJob, on_delete=models.PROTECT, related_name="run", db_constraint=False)
    lease = models.OneToOneField(Lease, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    spec = models.JSONField()
    """What the trainer is told (:class:`inference_workers.protocol.TrainingWork`)."""
    events_seen = models.PositiveIntegerField(default=0)
    """Number of the last event of the trainer."""
    total_steps = models.PositiveIntegerField()
    """Unless it stops early."""
    step = models.PositiveIntegerField(default=0)
    """The last step of which metrics have come."""
    is_done = models.BooleanField(default=False)
    """Whether the trainer has said that it is done."""


class JobEvent(TenantModel):
    """Something that a customer may want to know about a job."""

    ID_PREFIX = "ftevent-"

    class Level(models.TextChoices):
        """OpenAI's levels."""

        INFO = "info"
        WARN = "warn"
        ERROR = "error"

    pk = models.CompositePrimaryKey("job_id", "number")
    job = tenant_key(FineTuningJob, db_index=False)
    number = models.PositiveIntegerField()
    level = models.CharField(max_length=8, choices=Level, default=Level.INFO)
    message = models.TextField()
    step = models.PositiveIntegerField(null=True)
    """Of an event that tells metrics: those of this step."""
    created_at = models.DateTimeField(db_default=Now())


class MetricPoint(TenantModel):
    """What the trainer has measured at one step; of a step that was repeated after a kill there is one."""

    pk = models.CompositePrimaryKey("job_id", "step")
    job = tenant_key(FineTuningJob, db_index=False)
    step = models.PositiveIntegerField()
    epoch = models.FloatField()
    train_loss = models.FloatField(null=True)
    train_token_accuracy = models.FloatField(null=True)
    valid_loss = models.FloatField(null=True)
    valid_token_accuracy = models.FloatField(null=True)
    learning_rate = models.FloatField(null=True)
    grad_norm = models.FloatField(null=True)
    tokens_per_second = models.FloatField()
    trained_tokens = models.BigIntegerField()
    more = models.JSONField(default=dict)
    """What only some methods measure, by the names of :class:`inference_workers.protocol.TrainingEvent`."""
    created_at = models.DateTimeField(db_default=Now())


class Checkpoint(TenantModel):
    """The adapter as it was at one step: a training goes on from it after a stop, and most can be called."""

    ID_PREFIX = "ftckpt-"

    pk = models.CompositePrimaryKey("job_id", "step")
    job = tenant_key(FineTuningJob, db_index=False)
    step = models.PositiveIntegerField()
    is_interim = models.BooleanField(default=False)
    """There to go on from, not to be called."""
    metrics = models.JSONField(default=dict)
    lease = tenant_key(Lease, null=True, db_index=False)
    """The control plane's work of publishing it."""
    model = models.CharField(max_length=300, blank=True)
    """Name by which it can be called, once it is published."""
    refusal = models.TextField(blank=True)
    """Why it cannot."""
    created_at = models.DateTimeField(db_default=Now())


class Artifact(TenantModel):
    """Bytes that a job works with or has produced, by their path; most go when the job has ended.

    ``inputs/`` is what the trainer is given, ``checkpoints/``, ``adapter/`` and ``logs/`` are what it has made.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    job = tenant_key(FineTuningJob, db_index=False)
    path = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    bytes = models.BigIntegerField()
    storage_key = models.CharField(max_length=255)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["job", "path"], name="artifact_once_per_path")]
        indexes: ClassVar = [models.Index(fields=["storage_key"], name="artifact_by_storage_key")]


class EvaluationReport(TenantModel):
    """What base and tuned model made of the held-out rows of a job: the figures, and what they decided."""

    class Status(models.TextChoices):
        """Of the evaluation; that it failed fails no job."""

        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    job = models.OneToOneField(FineTuningJob, on_delete=models.PROTECT, related_name="evaluation", db_constraint=False)
    status = models.CharField(max_length=16, choices=Status, default=Status.QUEUED)
    error = models.JSONField(null=True)
    """``{"code", "message"}`` of a failed one."""
    rows = models.PositiveIntegerField()
    """Held out for it."""
    summary = models.JSONField(null=True)
    """As :func:`finetuning.figures.as_json` writes it."""
    samples = models.JSONField(null=True)
    """As :class:`finetuning.samples.Samples` writes them."""
    gate = models.JSONField(null=True)
    """``{"passed", "reasons", "checks", "promoted"}`` once it is known whether the job's alias moves."""
    examples_key = models.CharField(max_length=255, blank=True)
    """Blob with every row and both answers, a line each (:func:`finetuning.samples.example_as_json`)."""
    examples_bytes = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    """Of all that both models were asked: noted, and not charged for."""
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["examples_key"], condition=~models.Q(examples_key=""), name="evaluation_by_examples"),
        ]

    @property
    def shown_status(self) -> str:
        """*cancelled* where the job has ended before its evaluation."""
        return "cancelled" if self.finished_at is None and self.job.is_terminal else self.status


class Canary(TenantModel):
    """The trial of a model on a node."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = tenant_key(FineTunedModel)
    lease = models.OneToOneField(Lease, on_delete=models.PROTECT, related_name="+", db_constraint=False)
