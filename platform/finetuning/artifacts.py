"""The bytes that a job works with: what its trainer is given, what it has made.

The bytes are stored first, under a key of their own; the row that names them is committed right after. Rows go in the
transaction that ends the need for them, the bytes after it.
"""

import re
from collections.abc import Iterable

from django.db import transaction
from django.db.models import Q, QuerySet

from common.errors import HoneError, not_found
from common.storage import BlobRange, IncomingBlob, discard_blobs
from finetuning.models import Artifact, Checkpoint, FineTuningJob
from finetuning.selectors import get_leased_job
from finetuning.stages import lock_leased_job
from fleet.models import Lease
from inference_workers.protocol import ADAPTER_FILES, STATE_FILES, BlobRef
from tenants.scope import tenant_scope

BLOBS = "training"
"""Kind of the blobs of artefacts."""
INPUTS = "inputs/"
LOGS = "logs/"
ADAPTER = "adapter/"
_PATH = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*){0,7}", re.ASCII)


def checkpoint_folder(step: int) -> str:
    """Where the files of a checkpoint are, below which a node puts them and takes them from."""
    return f"checkpoints/step-{step}/"


def store_artifact(*, lease: Lease, path: str, blob: IncomingBlob, sha256: str) -> bool:
    """Keep what the holder of the lease has sent; False when these very bytes are there already.

    Other bytes replace what was there: they come of a step that has been repeated. Not those of a checkpoint that is
    known already: ``artifact_conflict``.
    """
    if not _PATH.fullmatch(path) or len(path) > 200 or path.startswith(INPUTS):
        raise HoneError("invalid_value", f"Nothing can be put at '{path[:200]}'", param="path")
    if blob.sha256 != sha256:
        raise HoneError("checksum_mismatch", "The bytes received are not those of the checksum", param="path")
    with tenant_scope(lease.organization_id):
        if artifacts_of(get_leased_job(lease=lease)).filter(path=path, sha256=sha256).exists():
            return False
    key = blob.keep_new(lease.organization_id, BLOBS)
    try:
        with tenant_scope(lease.organization_id):
            job = lock_leased_job(lease=lease)
            if Checkpoint.objects.filter(job_id=job.id, step=_step_of(path)).exists():
                raise HoneError("artifact_conflict", f"'{path}' belongs to a checkpoint that has been reported")
            remove_artifacts(artifacts_of(job).filter(path=path))
            _add(job, path, sha256=sha256, size=blob.size, key=key)
    except HoneError:
        discard_blobs(key)  # refused, so that certainly nothing refers to it
        raise
    return True


def add_input(*, job: FineTuningJob, name: str, sha256: str, size: int, key: str) -> None:
    """Name bytes that stand at ``key`` already as an input of the job. Call with the job locked."""
    _add(job, f"{INPUTS}{name}", sha256=sha256, size=size, key=key)


def open_artifact(*, lease: Lease, path: str) -> tuple[Artifact, BlobRange]:
    """An artefact of the job that the lease carries on, for its holder."""
    with tenant_scope(lease.organization_id):
        artifact = artifacts_of(get_leased_job(lease=lease)).filter(path=path).first()
    if artifact is None:
        raise not_found("artefact", path, param="path")
    return artifact, BlobRange(artifact.storage_key, 0, artifact.bytes)


def artifacts_of(job: FineTuningJob, *, below: str = "") -> QuerySet[Artifact]:
    """What there is of a job; below a folder. Call inside the scope."""
    found = Artifact.objects.filter(job_id=job.id)
    return found.filter(path__startswith=below) if below else found


def references(artifacts: Iterable[Artifact], *, below: str) -> dict[str, BlobRef]:
    """What a node needs to know of them, by their names below a folder."""
    return {
        artifact.path.removeprefix(below): BlobRef(sha256=artifact.sha256, bytes=artifact.bytes)
        for artifact in artifacts
    }


def require_files(*, job: FineTuningJob, below: str, names: Iterable[str]) -> None:
    """Raise ``artifacts_missing`` unless all of them have been put."""
    present = set(artifacts_of(job, below=below).values_list("path", flat=True))
    missing = [name for name in names if f"{below}{name}" not in present]
    if missing:
        raise HoneError("artifacts_missing", f"Put these first: {', '.join(f'{below}{name}' for name in missing)}")


def remove_older_states(*, job: FineTuningJob, step: int) -> None:
    """Forget what only going on from checkpoints before this one needs. Call with the job locked."""
    older = Checkpoint.objects.filter(job_id=job.id, step__lt=step).values_list("step", "is_interim")
    paths = [
        f"{checkpoint_folder(number)}{name}"
        for number, is_interim in older
        for name in (*STATE_FILES, *(ADAPTER_FILES if is_interim else ()))
    ]
    remove_artifacts(artifacts_of(job).filter(path__in=paths))


def clear_artifacts(*, job: FineTuningJob) -> None:
    """The job has ended: keep its logs, and the adapters of checkpoints whose publication has not. Job locked."""
    kept = Q(path__startswith=LOGS)
    unpublished = Checkpoint.objects.filter(job_id=job.id, is_interim=False, model="", refusal="")
    for step in unpublished.values_list("step", flat=True):
        kept |= Q(path__in=[f"{checkpoint_folder(step)}{name}" for name in ADAPTER_FILES])
    remove_artifacts(artifacts_of(job).exclude(kept))


def remove_artifacts(artifacts: QuerySet[Artifact]) -> None:
    """Delete rows, and after the commit their bytes."""
    keys = list(artifacts.values_list("storage_key", flat=True))
    artifacts.delete()
    if keys:
        transaction.on_commit(lambda: discard_blobs(*keys), robust=True)


def _add(job: FineTuningJob, path: str, *, sha256: str, size: int, key: str) -> None:
    Artifact.objects.create(
        organization_id=job.organization_id, job_id=job.id, path=path, sha256=sha256, bytes=size, storage_key=key
    )


def _step_of(path: str) -> int:
    """The step of a checkpoint's file; -1 for any other."""
    match = re.match(r"checkpoints/step-(\d{1,9})/", path, re.ASCII)
    return int(match[1]) if match else -1
