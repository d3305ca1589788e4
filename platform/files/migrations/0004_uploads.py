"""Uploads in parts, behind the second wall."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import common.ids
from tenants.rls import protect


class Migration(migrations.Migration):
    """Makes the tables of uploads and their parts."""

    dependencies = [
        ("files", "0003_storage_key_index"),
        ("tenants", "0006_deleted_organizations"),
    ]

    operations = [
        migrations.CreateModel(
            name="Upload",
            fields=[
                ("id", models.UUIDField(default=common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("filename", models.CharField(max_length=255)),
                (
                    "purpose",
                    models.CharField(
                        choices=[
                            ("batch", "Batch"),
                            ("fine-tune", "Fine Tune"),
                            ("evals", "Evals"),
                            ("user_data", "User Data"),
                            ("assistants", "Assistants"),
                            ("vision", "Vision"),
                            ("batch_output", "Batch Output"),
                            ("fine-tune-results", "Fine Tune Results"),
                        ],
                        max_length=32,
                    ),
                ),
                ("bytes", models.BigIntegerField()),
                ("stored_bytes", models.BigIntegerField(default=0)),
                ("lifetime_seconds", models.PositiveIntegerField(null=True)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("completed", "Completed"),
                            ("cancelled", "Cancelled"),
                            ("expired", "Expired"),
                        ],
                        default="pending",
                        max_length=16,
                    ),
                ),
                ("part_order", models.CharField(blank=True, max_length=64)),
                ("md5", models.CharField(blank=True, max_length=32)),
                ("created_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
                (
                    "file",
                    models.ForeignKey(
                        db_constraint=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="files.storedfile",
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.project",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="UploadPart",
            fields=[
                ("id", models.UUIDField(default=common.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("bytes", models.BigIntegerField()),
                ("sha256", models.CharField(max_length=64)),
                ("storage_key", models.CharField(max_length=255)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "organization",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.organization",
                    ),
                ),
                (
                    "upload",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="files.upload",
                    ),
                ),
            ],
        ),
        migrations.AddIndex(model_name="upload", index=models.Index(fields=["expires_at"], name="upload_by_expiry")),
        migrations.AddConstraint(
            model_name="upload",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("file__isnull", False), ("status", "completed")),
                    models.Q(models.Q(("status", "completed"), _negated=True), ("file", None)),
                    _connector="OR",
                ),
                name="upload_has_its_file_when_completed",
            ),
        ),
        migrations.AddIndex(
            model_name="uploadpart", index=models.Index(fields=["storage_key"], name="upload_part_by_storage_key")
        ),
        migrations.AddConstraint(
            model_name="uploadpart",
            constraint=models.UniqueConstraint(fields=("upload", "sha256"), name="upload_part_once"),
        ),
        *protect("files_upload", references={"project_id": "tenants_project", "file_id": "files_storedfile"}),
        *protect("files_uploadpart", references={"upload_id": "files_upload"}),
    ]
