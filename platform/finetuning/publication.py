"""What follows a training: the model gets its immutable name, then the job its result file and its end.

Checkpoints are published one by one while the training runs, each by a lease of its own.
"""

from structlog.contextvars import bound_contextvars

from common.errors import HoneError
from common.storage import IncomingBlob, discard_blobs
from files.models import StoredFile
from files.services import NewFile, add_file
from finetuning.artifacts import clear_artifacts
from finetuning.closing import end_job
from finetuning.events import WARN, tell
from finetuning.models import Checkpoint, FineTuningJob
from finetuning.results import write_results
from finetuning.selectors import get_leased_job
from finetuning.stages import CONCLUSION_KIND, lock_leased_job, queue_stage
from fleet.heartbeat import Heartbeat
from fleet.models import Lease
from fleet.services import complete_lease, lock_lease
from tenants.scope import tenant_scope
from tenants.services import SYSTEM_ACTOR


def publish_model(*, lease: Lease) -> None:
    """Register the trained adapter of this lease's job under its name. May run twice."""
    with tenant_scope(lease.organization_id):
        job = get_leased_job(lease=lease)
        name = model_name(job)
    with bound_contextvars(job=job.wire_id), tenant_scope(lease.organization_id):
        job = lock_leased_job(lease=lease)
        job.fine_tuned_model = name
        job.save(update_fields=["fine_tuned_model"])
        complete_lease(lease=lease)
        queue_stage(job=job, kind=CONCLUSION_KIND)


def publish_checkpoint(*, lease: Lease) -> None:
    """Register the adapter of the checkpoint that this lease is for. May run twice."""
    with tenant_scope(lease.organization_id):
        lock_lease(lease_id=lease.id, epoch=lease.epoch)
        checkpoint = Checkpoint.objects.get(lease_id=lease.id)
        job = (
            FineTuningJob.objects.select_for_update(of=("self",))
            .select_related("base", "organization")
            .get(id=checkpoint.job_id)
        )
        checkpoint.model = f"{model_name(job)}:ckpt-step-{checkpoint.step}"
        checkpoint.save(update_fields=["model"])
        _end_checkpoint(job)
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


def model_name(job: FineTuningJob) -> str:
    """The name of the model that a job makes."""
    return f"ft:{job.base.name}:{job.organization.wire_id}:{job.suffix}:{job.id.hex[-12:]}"


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
