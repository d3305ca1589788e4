"""A stored file and the jobs that still need it."""

from typing import ClassVar

from django.db import models
from django.utils import timezone

from common.ids import uuid7
from tenants.models import ApiKey, Project, TenantModel, WireModel, tenant_key


class StoredFile(WireModel, TenantModel):
    """A file of a project. Its bytes never change; a deleted one keeps its row until the bytes are gone."""

    ID_PREFIX = "file-"

    class Purpose(models.TextChoices):
        """What OpenAI lets a file be for; the last two are produced, never uploaded."""

        BATCH = "batch"
        FINE_TUNE = "fine-tune"
        EVALS = "evals"
        USER_DATA = "user_data"
        ASSISTANTS = "assistants"
        VISION = "vision"
        BATCH_OUTPUT = "batch_output"
        FINE_TUNE_RESULTS = "fine-tune-results"

    project = tenant_key(Project)
    created_by = tenant_key(ApiKey, null=True)
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=32, choices=Purpose)
    bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    storage_key = models.CharField(max_length=255)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["project", "id"], condition=models.Q(deleted_at=None), name="file_by_project"),
            models.Index(fields=["expires_at"], condition=models.Q(deleted_at=None), name="file_by_expiry"),
            models.Index(fields=["deleted_at"], condition=models.Q(deleted_at__isnull=False), name="file_deleted"),
            models.Index(fields=["storage_key"], condition=~models.Q(storage_key=""), name="file_by_storage_key"),
        ]


class FileUse(TenantModel):
    """A job needs a file: while such a row exists the file cannot be deleted and does not expire."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    file = tenant_key(StoredFile)
    holder = models.CharField(max_length=80)
    """Wire id of the job."""

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["file", "holder"], name="file_use_once")]
