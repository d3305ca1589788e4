"""A stored file, the jobs that still need it, what its rows are like, and uploads that become files."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from common.ids import uuid7
from tenants.models import ApiKey, Project, TenantModel, WireModel, tenant_key


class StoredFile(WireModel, TenantModel):
    """A file of a project. Its bytes never change; a deleted one keeps its row until the bytes are gone.

    Files with the same bytes may name the same blob (:mod:`files.duplicates`).
    """

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
            models.Index(
                fields=["project", "sha256", "purpose"], condition=models.Q(deleted_at=None), name="file_by_content"
            ),
        ]


class FileUse(TenantModel):
    """A job needs a file: while such a row exists the file cannot be deleted and does not expire."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    file = tenant_key(StoredFile)
    holder = models.CharField(max_length=80)
    """Wire id of the job."""

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["file", "holder"], name="file_use_once")]


class FileReport(TenantModel):
    """What was found out about the rows of a file (:mod:`files.reports`), by one set of options."""

    class State(models.TextChoices):
        """``queued -> running -> completed | failed``."""

        QUEUED = "queued"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    file = tenant_key(StoredFile, db_index=False)
    requested_by = tenant_key(ApiKey, null=True)
    """Whose right to use models decides which the file is held against."""
    options = models.JSONField(default=dict)
    """As asked for: names and texts of the query."""
    options_digest = models.CharField(max_length=64)
    lease_id = models.UUIDField(null=True, unique=True)
    """Of the work; an app above this one knows leases."""
    state = models.CharField(max_length=16, choices=State, default=State.QUEUED)
    bytes_read = models.BigIntegerField(default=0)
    summary = models.JSONField(null=True)
    rejects_key = models.CharField(max_length=255, blank=True)
    """Blob of the bad rows, NDJSON; empty where there are none."""
    rejects_bytes = models.BigIntegerField(default=0)
    failure = models.JSONField(null=True)
    """``{"code", "message"}`` of a report that could not be made."""
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["file", "options_digest"], name="file_report_once")]
        indexes: ClassVar = [
            models.Index(
                fields=["rejects_key"], condition=~models.Q(rejects_key=""), name="file_report_by_rejects_key"
            ),
        ]


class Upload(WireModel, TenantModel):
    """A file that arrives in parts. It reserves its place in the project's quota until it has ended."""

    ID_PREFIX = "upload_"

    class Status(models.TextChoices):
        """Parts are taken while it is pending; whatever comes after is an end."""

        PENDING = "pending"
        COMPLETED = "completed"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    project = tenant_key(Project)
    filename = models.CharField(max_length=255)
    purpose = models.CharField(max_length=32, choices=StoredFile.Purpose)
    bytes = models.BigIntegerField()
    """As announced."""
    stored_bytes = models.BigIntegerField(default=0)
    """Of its parts together: more than announced where some are not going to be used."""
    lifetime_seconds = models.PositiveIntegerField(null=True)
    """Of the file, from its creation."""
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    file = tenant_key(StoredFile, null=True)
    part_order = models.CharField(max_length=64, blank=True)
    """SHA-256 of the ids of the parts that it was completed with, in their order."""
    md5 = models.CharField(max_length=32, blank=True)
    """Of the file's bytes."""
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(status="completed", file__isnull=False)
                | (~models.Q(status="completed") & models.Q(file=None)),
                name="upload_has_its_file_when_completed",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="upload_by_expiry")]


class UploadPart(WireModel, TenantModel):
    """Some bytes of an upload. The same bytes sent again are the same part."""

    ID_PREFIX = "part_"

    upload = tenant_key(Upload, db_index=False)
    bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    storage_key = models.CharField(max_length=255)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["upload", "sha256"], name="upload_part_once")]
        indexes: ClassVar = [models.Index(fields=["storage_key"], name="upload_part_by_storage_key")]
