"""What a job tells its owner. Call everything here inside the scope, with the job locked."""

from typing import Any

from finetuning.models import FineTuningJob, JobEvent

INFO, WARN, ERROR = JobEvent.Level.INFO, JobEvent.Level.WARN, JobEvent.Level.ERROR


def tell(job: FineTuningJob, message: str, *, level: JobEvent.Level = INFO) -> None:
    """One event."""
    tell_all(job, [{"message": message, "level": level}])


def tell_all(job: FineTuningJob, events: list[dict[str, Any]]) -> None:
    """Several, in their order; each has the members of :class:`JobEvent` but its number."""
    if not events:
        return
    JobEvent.objects.bulk_create(
        JobEvent(organization_id=job.organization_id, job_id=job.id, number=job.next_event + index, **event)
        for index, event in enumerate(events)
    )
    job.next_event += len(events)
    job.save(update_fields=["next_event"])
