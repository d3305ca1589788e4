"""Base models and their prices, and what a project restricts for itself."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from common.ids import uuid7
from tenants.models import Project, TenantModel, tenant_key

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
        """Online calls, batches and training have prices of their own."""

        ONLINE = "online"
        BATCH = "batch"
        TRAINING = "training"

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
