"""What a job leaves to read: its result file and the logs of its trainer."""

import csv
import io
import tempfile
import zipfile
from collections.abc import Callable
from typing import IO

from common.errors import HoneError
from common.storage import CHUNK_BYTES, IncomingBlob, open_blob
from finetuning.artifacts import LOGS, artifacts_of
from finetuning.models import FineTuningJob, MetricPoint
from finetuning.selectors import get_job
from tenants.models import Project
from tenants.scope import tenant_scope

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
PAGE_ROWS = 5_000
IN_MEMORY_BYTES = 8 * 1024 * 1024


def write_results(*, job: FineTuningJob, blob: IncomingBlob, keep_alive: Callable[[], None]) -> None:
    """CSV, a row per step; what was not measured at a step is left empty."""
    blob.write((",".join(COLUMNS) + "\n").encode())
    last = 0
    while True:
        keep_alive()
        with tenant_scope(job.organization_id):
            points = MetricPoint.objects.filter(job_id=job.id, step__gt=last).order_by("step")
            page = list(
                points.values_list("step", "train_loss", "train_token_accuracy", "valid_loss", "valid_token_accuracy")[
                    :PAGE_ROWS
                ]
            )
        if not page:
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(page)
        blob.write(text.getvalue().encode())
        last = page[-1][0]


def pack_logs(*, project: Project, wire_id: str) -> IO[bytes]:
    """A zip file of what the trainer has logged for TensorBoard; ``not_found`` while there is nothing."""
    with tenant_scope(project.organization_id):
        job = get_job(project=project, wire_id=wire_id)
        logs = list(artifacts_of(job, below=LOGS).order_by("path"))
    if not logs:
        raise HoneError("not_found", f"{wire_id} has no logs yet; they come when a training pauses or ends", param="id")
    packed = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115  # closed by whoever streams it
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for log in logs:
            with open_blob(log.storage_key) as blob, archive.open(log.path.removeprefix(LOGS), "w") as entry:
                while chunk := blob.read(CHUNK_BYTES):
                    entry.write(chunk)
    packed.seek(0)
    return packed
