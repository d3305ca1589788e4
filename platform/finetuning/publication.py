"""What follows a training: the model gets its immutable name, a node tries it, the job its result file and its end.

Checkpoints are published one by one while the training runs, each by a lease of its own.
"""

from typing import Any

from structlog.contextvars import bound_contextvars

from catalog.adapters import AdapterFile
from catalog.models import FineTunedModel
from catalog.publishing import register_adapter
from common.errors import HoneError
from common.storage import IncomingBlob, discard_blobs
from files.models import StoredFile
from files.services import NewFile, add_file
from finetuning.artifacts import ADAPTER, artifacts_of, checkpoint_folder, clear_artifacts
from finetuning.canaries import start_canary
from finetuning.closing import end_job, fail_job
from finetuning.events import WARN, tell
from finetuning.models import Checkpoint, FineTuningJob
from finetuning.results import write_results
from finetuning.selectors import get_leased_job
from finetuning.stages import lock_leased_job
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease, lock_lease
from inference_workers.protocol import ADAPTER_FILES
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR


def publish_model(*, lease: Lease) -> None:
    """Register the trained adapter of this lease's job and have a node try it. May run twice."""
    with tenant_scope(lease.organization_id):
        job = get_leased_job(lease=lease)
        files = _files_of(job, ADAPTER)
    with bound_contextvars(job=job.wire_id):
        try:
            model = _register(job, files, step=None, metrics={})
        except HoneError as error:
            if error.code != "adapter_refused":
                raise
            _refuse(lease, error.message)
            return
        with tenant_scope(lease.organization_id):
            job = lock_leased_job(lease=lease)
            job.fine_tuned_model = model.name
            job.lease = start_canary(model=model).lease
            job.save(update_fields=["fine_tuned_model", "lease"])
            tell(job, "The model waits for a node that tries it")
            complete_lease(lease=lease)


def publish_checkpoint(*, lease: Lease) -> None:
    """Register the adapter of the checkpoint that this lease is for, and have a node try it. May run twice."""
    with tenant_scope(lease.organization_id):
        checkpoint = Checkpoint.objects.select_related("job__project", "job__base").get(lease_id=lease.id)
        job = checkpoint.job
        files = _files_of(job, checkpoint_folder(checkpoint.step))
    with bound_contextvars(job=job.wire_id):
        try:
            model = _register(job, files, step=checkpoint.step, metrics=checkpoint.metrics)
        except HoneError as error:
            if error.code != "adapter_refused":
                raise
            with tenant_scope(lease.organization_id):
                complete_lease(lease=lease)
                refuse_checkpoint(lease=lease, message=error.message)
            return
        with tenant_scope(lease.organization_id):
            lock_lease(lease_id=lease.id, epoch=lease.epoch)
            locked = FineTuningJob.objects.select_for_update().get(id=job.id)
            Checkpoint.objects.filter(lease_id=lease.id).update(model=model.name)
            start_canary(model=model)
            _end_checkpoint(locked)
            complete_lease(lease=lease)


def refuse_checkpoint(*, lease: Lease, message: str) -> None:
    """It cannot be called; the training does not need that. Inside the scope, with the lease locked."""
    checkpoint = Checkpoint.objects.get(lease_id=lease.id)
    job = FineTuningJob.objects.select_for_update().get(id=checkpoint.job_id)
    checkpoint.refusal = message
    checkpoint.save(update_fields=["refusal"])
    tell(job, f"The checkpoint of step {checkpoint.step} cannot be called: {message}", level=WARN)
    _end_checkpoint(job)


def conclude_job(*, lease: Lease) -> None:
    """Write the result file and end the job of this lease in success. May run twice."""
    with tenant_scope(lease.organization_id):
        job = get_leased_job(lease=lease)
    with bound_contextvars(job=job.wire_id), IncomingBlob() as blob:
        write_results(job=job, blob=blob, keep_alive=Heartbeat(lease))
        key = blob.keep_new(job.organization_id, "files")
        try:
            with tenant_scope(lease.organization_id):
                _conclude(lease, blob, key)
        except HoneError:
            discard_blobs(key)  # refused, so that certainly nothing refers to it
            raise


def _register(
    job: FineTuningJob, files: dict[str, AdapterFile], *, step: int | None, metrics: dict[str, Any]
) -> FineTunedModel:
    return register_adapter(
        project=job.project,
        base=job.base,
        job_id=job.wire_id,
        step=step,
        suffix=job.suffix,
        files=files,
        manifest=provenance(job=job) | {"metrics": metrics},
    )


def _files_of(job: FineTuningJob, folder: str) -> dict[str, AdapterFile]:
    artifacts = artifacts_of(job, below=folder).filter(path__in=[f"{folder}{name}" for name in ADAPTER_FILES])
    return {
        found.path.removeprefix(folder): AdapterFile(
            sha256=found.sha256, bytes=found.bytes, storage_key=found.storage_key
        )
        for found in artifacts
    }


def provenance(*, job: FineTuningJob) -> dict[str, Any]:
    """Everything from which the model was made: the same again gives the same weights."""
    return {
        "method": job.method,
        "hyperparameters": job.resolved,
        "seed": job.seed,
        "recipe": job.recipe or None,
        "column_mapping": job.column_mapping,
        "continued_from": job.continued_from or None,
        "dataset": job.dataset,
        "trained_tokens": job.trained_tokens,
    }


def _refuse(lease: Lease, message: str) -> None:
    with tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        complete_lease(lease=lease)
        fail_job(job=job, code="adapter_refused", message=message)


def _conclude(lease: Lease, blob: IncomingBlob, key: str) -> None:
    job = lock_leased_job(lease=lease)
    job.result_file = add_file(
        project=job.project,
        blob=blob,
        key=key,
        new=NewFile(filename=f"{job.wire_id}_results.csv", purpose=StoredFile.Purpose.FINE_TUNE_RESULTS),
        actor=SYSTEM_ACTOR,
        created_by=job.api_key_id,
    )
    job.save(update_fields=["result_file"])
    complete_lease(lease=lease)
    end_job(
        job=job,
        status=FineTuningJob.Status.SUCCEEDED,
        message=f"The job has successfully completed; the model is {job.fine_tuned_model}",
        actor=SYSTEM_ACTOR,
    )


def _end_checkpoint(job: FineTuningJob) -> None:
    """Of a job that has ended meanwhile the adapter was kept for this."""
    if job.is_terminal:
        clear_artifacts(job=job)
