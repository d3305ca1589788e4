"""Usage events: append-only, one per piece of finished work."""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from catalog.models import Price
from common.ids import uuid7
from tenants.models import ApiKey, Project, TenantModel, tenant_key


class UsageEvent(TenantModel):
    """Quantities, the price version that was in force, and the resulting cost in nano-USD."""

    class Operation(models.TextChoices):
        """What was done; OpenAI's usage API has a route for each but training, which is in the costs alone."""

        COMPLETIONS = "completions"
        EMBEDDINGS = "embeddings"
        TRAINING = "training"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = tenant_key(Project)
    api_key = tenant_key(ApiKey)
    source = models.CharField(max_length=80, unique=True)
    """Natural key of what was counted, so that a repeat cannot count twice."""
    job = models.CharField(max_length=80, blank=True)
    """Wire id of the batch, or of the fine-tuning job."""
    operation = models.CharField(max_length=16, choices=Operation, db_default=Operation.COMPLETIONS)
    model = models.CharField(max_length=200)
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="+")
    requests = models.PositiveIntegerField()
    input_tokens = models.BigIntegerField()
    """All input tokens, cached ones included."""
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()
    occurred_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(
                    input_tokens__gte=models.F("cached_tokens"),
                    cached_tokens__gte=0,
                    output_tokens__gte=0,
                    cost_nanos__gte=0,
                ),
                name="usage_not_negative",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["organization", "occurred_at"], name="usage_by_organization"),
            models.Index(fields=["job"], name="usage_by_job"),
        ]
