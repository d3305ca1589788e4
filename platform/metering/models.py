"""Usage events, append-only, one per piece of finished work, and what they come to by the hour.

Events lie in a partition for each month (migration 0005). The trigger that adds them to their hours runs within the
statement that inserts them: whoever reads hours reads all that is committed, and nobody else writes them.
"""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from catalog.models import Price
from tenants.models import ApiKey, Project, TenantModel, tenant_key


class UsageEvent(TenantModel):
    """Quantities, the price version that was in force, and the resulting cost in nano-USD."""

    class Operation(models.TextChoices):
        """What was done; OpenAI's usage API has a route for each but training, which is in the costs alone."""

        COMPLETIONS = "completions"
        EMBEDDINGS = "embeddings"
        TRAINING = "training"

    pk = models.CompositePrimaryKey("source", "occurred_at")
    project = tenant_key(Project, db_index=False)
    api_key = tenant_key(ApiKey, db_index=False)
    source = models.CharField(max_length=80)
    """Natural key of what was counted, so that a repeat, which has the same moment, cannot count twice."""
    job = models.CharField(max_length=80, blank=True)
    """Wire id of the batch, or of the fine-tuning job."""
    operation = models.CharField(max_length=16, choices=Operation, db_default=Operation.COMPLETIONS)
    model = models.CharField(max_length=200)
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="+", db_index=False)
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
            models.Index(fields=["job"], condition=~models.Q(job=""), name="usage_by_job"),
        ]


class UsageHour(TenantModel):
    """The sums of the usage events of an hour of the clock that differ in nothing else."""

    pk = models.CompositePrimaryKey(
        "organization_id", "hour", "project_id", "api_key_id", "operation", "model", "is_batch", "price_id"
    )
    hour = models.DateTimeField()
    project = tenant_key(Project, db_index=False)
    api_key = tenant_key(ApiKey, db_index=False)
    operation = models.CharField(max_length=16, choices=UsageEvent.Operation)
    model = models.CharField(max_length=200)
    is_batch = models.BooleanField()
    """Whether it was work of a job, which is a batch but in training."""
    price = models.ForeignKey(Price, on_delete=models.PROTECT, related_name="+", db_index=False)
    requests = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cached_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()
