"""Base models and their prices, models fine-tuned from them, and what a project restricts for itself."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from common.ids import uuid7
from tenants.models import Project, TenantModel, WireModel, tenant_key

COMPLETION_WINDOWS = ("1h", "24h", "7d")
"""Within what a batch is to be done; each has prices of its own."""


class BaseModel(models.Model):
    """A model that nodes may serve. ``name`` is what customers write; it holds no slash."""

    class Capability(models.TextChoices):
        """Endpoints a model can answer."""

        CHAT = "chat"
        COMPLETIONS = "completions"
        EMBEDDINGS = "embeddings"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200, unique=True)
    revision = models.CharField(max_length=64)
    """Digest over the prepared weights and tokenizer."""
    source = models.CharField(max_length=300)
    context_length = models.PositiveIntegerField()
    capabilities = ArrayField(models.CharField(max_length=32, choices=Capability))
    tokenizer_key = models.CharField(max_length=255)
    """Key of ``tokenizer.json`` in the default storage."""
    chat_template = models.TextField(blank=True)
    special_tokens = models.JSONField(default=dict)
    """``bos_token``, ``eos_token`` and the like, as the chat template names them."""
    modules_key = models.CharField(max_length=255, blank=True)
    """Key of the shapes of its linear modules (:func:`catalog.selectors.linear_modules`); without them no adapter can
    be checked, so it cannot be fine-tuned."""
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=~models.Q(name__contains="/"), name="model_name_without_slash"),
        ]

    def __str__(self) -> str:
        return self.name


class Price(models.Model):
    """A price as it is charged, in nano-USD per token. Never changed: a new version takes effect instead.

    Training is charged for each token that passes through the model, as input. $0.05 per million tokens is 50
    nano-USD per token.
    """

    class Kind(models.TextChoices):
        """Online calls, batches and training have prices of their own.

        Models fine-tuned from the model cost what it costs itself, unless it has prices for them.
        """

        ONLINE = "online"
        BATCH = "batch"
        TRAINING = "training"
        TUNED_ONLINE = "tuned_online"
        TUNED_BATCH = "tuned_batch"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="prices")
    kind = models.CharField(max_length=16, choices=Kind)
    completion_window = models.CharField(max_length=8, blank=True)
    """One of :data:`COMPLETION_WINDOWS` for batches, empty for online calls."""
    version = models.PositiveIntegerField()
    input_nanos = models.BigIntegerField()
    cached_input_nanos = models.BigIntegerField()
    output_nanos = models.BigIntegerField()
    effective_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "kind", "completion_window", "version"], name="price_version"),
            models.CheckConstraint(
                condition=models.Q(input_nanos__gte=0, cached_input_nanos__gte=0, output_nanos__gte=0),
                name="price_not_negative",
            ),
        ]


class FineTunedModel(WireModel, TenantModel):
    """An adapter of a project's own on a base model. What it is never changes, and its name is never used again."""

    ID_PREFIX = "ftmodel-"

    class State(models.TextChoices):
        """Called by nobody before it is ready: a node has tried it first. The row of a deleted one stays, for usage."""

        PUBLISHING = "publishing"
        READY = "ready"
        REFUSED = "refused"
        DELETED = "deleted"

    name = models.CharField(max_length=200, unique=True)
    """``ft:<base>:<organisation>:<suffix>:<id>``, and ``:ckpt-step-<n>`` of a checkpoint."""
    project = tenant_key(Project)
    base = models.ForeignKey(BaseModel, on_delete=models.PROTECT, related_name="+")
    base_revision = models.CharField(max_length=64)
    """What it was trained on; on another revision of the base it would answer nonsense, and is not served."""
    job = models.CharField(max_length=80)
    """Wire id of the job that has trained it."""
    step = models.PositiveIntegerField(null=True)
    """Of a checkpoint; null is the job's result."""
    files = models.JSONField()
    """Path -> ``{"sha256", "bytes", "storage_key"}``; empty once the bytes have been deleted."""
    address = models.CharField(max_length=64)
    """Digest over its files (:attr:`inference_workers.protocol.AdapterRef.address`): under it nodes keep them."""
    rank = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.PUBLISHING)
    refusal = models.TextField(blank=True)
    """Why it will never be ready."""
    manifest = models.JSONField(default=dict)
    """Where it comes from; with the signature once it is ready (:mod:`catalog.manifests`)."""
    created_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "job", "step"], nulls_distinct=False, name="fine_tuned_model_once_per_step"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["project", "id"], name="fine_tuned_by_project"),
            models.Index(fields=["address"], name="fine_tuned_by_address"),
        ]

    def __str__(self) -> str:
        return self.name


class ModelAlias(WireModel, TenantModel):
    """A name of a project's own that stands for one version of a fine-tuned model, and moves from one to the next."""

    ID_PREFIX = "alias-"

    project = tenant_key(Project)
    name = models.CharField(max_length=64)
    target = tenant_key(FineTunedModel)
    previous = tenant_key(FineTunedModel, null=True)
    """What a rollback goes back to."""
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "name"], name="model_alias_once_per_project"),
        ]


class AliasMove(WireModel, TenantModel):
    """One line of an alias's history."""

    ID_PREFIX = "aliasmove-"

    class Reason(models.TextChoices):
        """What moved it."""

        CREATED = "created"
        PROMOTED = "promoted"
        ROLLED_BACK = "rolled_back"

    alias = tenant_key(ModelAlias, on_delete=models.CASCADE)
    target = tenant_key(FineTunedModel)
    reason = models.CharField(max_length=16, choices=Reason)
    actor = models.CharField(max_length=80)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["alias", "id"], name="alias_move_by_alias")]


class CheckpointPermission(WireModel, TenantModel):
    """Lets another project of the organisation call a fine-tuned model; reading its weights it does not allow."""

    ID_PREFIX = "cp_"

    model = tenant_key(FineTunedModel)
    project = tenant_key(Project)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "project"], name="checkpoint_permission_once"),
        ]


class ModelPolicy(TenantModel):
    """Which models a project's keys may use, on top of what the keys themselves allow. Without a row it is all."""

    class Mode(models.TextChoices):
        """Only those that are named, or all but those."""

        ALLOW = "allow_list"
        DENY = "deny_list"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.OneToOneField(Project, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    mode = models.CharField(max_length=16, choices=Mode)
    model_names = ArrayField(models.CharField(max_length=200))


class RateLimit(TenantModel):
    """A project's limits for one model, at most the installation's; null is the installation's."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = tenant_key(Project)
    model = models.CharField(max_length=200)
    requests_per_minute = models.PositiveIntegerField(null=True)
    tokens_per_minute = models.BigIntegerField(null=True)
    requests_per_day = models.PositiveIntegerField(null=True)
    batch_input_tokens = models.BigIntegerField(null=True)
    """Estimated input tokens of all batch requests that wait or run."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["project", "model"], name="rate_limit_once_per_model"),
        ]
